#include "policies/block_walk.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

class Blocks : public Schedule {
 public:
  explicit Blocks(const Parameters& parameters) : size_(parameters.integer("size")) {}
  [[nodiscard]] bool due(const ScheduleState& state) const override {
    return state.decoded == 0 || (state.row + 1) % plan_blocks(size_, state.entries).block == 0;
  }
  [[nodiscard]] bool cuts_while_decoding() const override { return true; }

 private:
  std::int64_t size_;
};

const Registration registration(
    {.name = "blocks",
     .sentence = "Cuts after the prompt and whenever so many rows of the whole sequence are full.",
     .citation = "ForesightKV, arXiv 2602.03203",
     .parameters = {integer_parameter("size", "16", 1, 1e9,
                                      "rows per block; at most half of the budget, so that two blocks fit")},
     .make = MakeSchedule([](const Parameters& parameters) { return std::make_unique<Blocks>(parameters); })});

}  // namespace
}  // namespace evictsim::policies
