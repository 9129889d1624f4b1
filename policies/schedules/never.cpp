#include "policies/registry.h"

namespace evictsim::policies {
namespace {

class Never : public Schedule {
 public:
  [[nodiscard]] bool due(const ScheduleState&) const override { return false; }
  [[nodiscard]] bool cuts_while_decoding() const override { return false; }
};

const Registration registration({.name = "never",
                                 .sentence = "Never cuts: every entry stays, whatever the budget.",
                                 .citation = "the full cache",
                                 .parameters = {},
                                 .make = MakeSchedule([](const Parameters&) { return std::make_unique<Never>(); })});

}  // namespace
}  // namespace evictsim::policies
