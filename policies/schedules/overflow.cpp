#include "policies/registry.h"

namespace evictsim::policies {
namespace {

class Overflow : public Schedule {
 public:
  explicit Overflow(const Parameters& parameters)
      : entries_(parameters.integer("entries")),
        pooled_(parameters.boolean("pooled")),
        strict_(parameters.boolean("strict")),
        prompt_(parameters.boolean("prompt")) {}
  [[nodiscard]] bool due(const ScheduleState& state) const override {
    if (state.decoded == 0 && prompt_) return true;
    const std::int64_t held = pooled_ ? state.total : state.resident;
    const std::int64_t limit = (pooled_ ? state.heads : 1) * (state.entries + entries_);
    return strict_ ? held > limit : held >= limit;
  }
  [[nodiscard]] bool cuts_while_decoding() const override { return true; }

 private:
  std::int64_t entries_;
  bool pooled_;
  bool strict_;
  bool prompt_;
};

const Registration registration(
    {.name = "overflow",
     .sentence = "Cuts when a head, or all heads together, hold so many entries more than the budget.",
     .citation = "TRIM-KV, arXiv 2512.03324 (a head; its global budgets: pooled)",
     .parameters = {integer_parameter("entries", "1", 1, 1e9, "entries above the budget at which it cuts"),
                    boolean_parameter("pooled", "false",
                                      "all heads that are cut together hold the budget plus `entries` each on average"),
                    boolean_parameter("strict", "false", "cut when they hold more than that, not as many"),
                    boolean_parameter("prompt", "true",
                                      "cut after the prompt however long it is; false: by the same rule as later")},
     .make = MakeSchedule([](const Parameters& parameters) { return std::make_unique<Overflow>(parameters); })});

}  // namespace
}  // namespace evictsim::policies
