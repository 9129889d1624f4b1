#include "policies/registry.h"

namespace evictsim::policies {
namespace {

class Once : public Schedule {
 public:
  [[nodiscard]] bool due(const ScheduleState& state) const override { return state.decoded == 0; }
  [[nodiscard]] bool cuts_while_decoding() const override { return false; }
};

const Registration registration({.name = "once",
                                 .sentence = "Cuts once, after the prompt.",
                                 .citation = "prefill policies such as SnapKV, arXiv 2404.14469",
                                 .parameters = {},
                                 .make = MakeSchedule([](const Parameters&) { return std::make_unique<Once>(); })});

}  // namespace
}  // namespace evictsim::policies
