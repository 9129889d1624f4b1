#include "policies/registry.h"

namespace evictsim::policies {
namespace {

class Every : public Schedule {
 public:
  explicit Every(const Parameters& parameters)
      : steps_(parameters.integer("steps")), prompt_(parameters.boolean("prompt")) {}
  [[nodiscard]] bool due(const ScheduleState& state) const override {
    return state.decoded == 0 ? prompt_ : state.decoded % steps_ == 0;
  }
  [[nodiscard]] bool cuts_while_decoding() const override { return true; }

 private:
  std::int64_t steps_;
  bool prompt_;
};

const Registration registration(
    {.name = "every",
     .sentence = "Cuts after the prompt and after every so many decode rows; the row just decoded competes.",
     .citation = "H2O, arXiv 2306.14048 (every step); kvpress 0.5.5 DecodingPress (every m steps, prompt uncut)",
     .parameters = {integer_parameter("steps", "1", 1, 1e9, "decode rows between two cuts"),
                    boolean_parameter("prompt", "true", "also cut after the prompt")},
     .make = MakeSchedule([](const Parameters& parameters) { return std::make_unique<Every>(parameters); })});

}  // namespace
}  // namespace evictsim::policies
