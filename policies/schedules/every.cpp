#include "policies/press.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

class Every : public Schedule {
 public:
  explicit Every(const Parameters& parameters)
      : steps_(parameters.integer("steps")),
        prompt_(parameters.boolean("prompt")),
        counts_sequence_(parameters.choice("counted") == "sequence"),
        phase_(parameters.integer("phase")) {}
  [[nodiscard]] bool due(const ScheduleState& state) const override {
    if (state.decoded == 0) return prompt_;
    const std::int64_t counted = counts_sequence_ ? state.row : state.decoded;
    return counted >= phase_ && (counted - phase_) % steps_ == 0;
  }
  [[nodiscard]] bool cuts_while_decoding() const override { return true; }

 private:
  std::int64_t steps_;
  bool prompt_;
  bool counts_sequence_;
  std::int64_t phase_;
};

const Registration registration(
    {.name = "every",
     .sentence = "Cuts after the prompt and after every so many decode rows; the row just decoded competes.",
     .citation = "H2O, arXiv 2306.14048 (every step); kvpress 0.5.5 DecodingPress (every m steps, prompt uncut); R-KV, "
                 "arXiv 2505.24133 (counted=sequence); RPC, arXiv 2505.13866 (phase)",
     .parameters = {integer_parameter("steps", "1", 1, 1e9, "decode rows between two cuts"),
                    boolean_parameter("prompt", "true", "also cut after the prompt"),
                    choice_parameter(
                        "counted", {"decoded", "sequence"},
                        "what is counted: decode rows from 1, or token rows from 0, the prompt's included"),
                    integer_parameter("phase", "0", 0, 1e9, "count of the first cut while decoding")},
     .make = MakeSchedule([](const Parameters& parameters) { return std::make_unique<Every>(parameters); })});

const PressRegistration press({.name = "DecodingPress",
                               .part = "every",
                               .arguments = {{"base_press", PressValue::press, nullptr},
                                             compression_interval_argument,
                                             target_size_argument,
                                             hidden_states_argument},
                               .map = [](const PressArguments& given) {
                                 return cut_to_target(given, "DecodingPress");
                               }});

}  // namespace
}  // namespace evictsim::policies
