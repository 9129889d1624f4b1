#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "policies/arrival_scorer.h"
#include "policies/registry.h"
#include "policies/shared_parameters.h"
#include "traces/error.h"

namespace evictsim::policies {
namespace {

constexpr double smallest_deviation = 1e-6;
/// The layers of the paper's model of 32, and its bands around them, as shares of the depth.
constexpr double paper_layers = 32;
constexpr double early_layer = 10;
constexpr double late_layer = 21;
constexpr double early_band[] = {7, 13};
constexpr double late_band[] = {18, 25};

/// A mean and a population deviation.
struct Moments {
  double mean = 0;
  double deviation = 0;
  Index count = 0;
};

Moments moments_of(std::span<const float> values) {
  Moments moments{.count = std::ssize(values)};
  if (values.empty()) return moments;
  for (const float value : values) moments.mean += value;
  moments.mean /= static_cast<double>(moments.count);
  for (const float value : values) {
    moments.deviation += (value - moments.mean) * (value - moments.mean);
  }
  moments.deviation = std::sqrt(moments.deviation / static_cast<double>(moments.count));
  return moments;
}

/// The captured layer next to a share of the depth; of two as near the earlier.
int nearest_layer(const LayerView& layer, double share) {
  const std::vector<int>& captured = layer.captured_layers();
  const double wanted = share * layer.geometry().num_layers;
  return *std::min_element(captured.begin(), captured.end(),
                           [&](int a, int b) { return std::abs(a - wanted) < std::abs(b - wanted); });
}

/// A token is worth how far the residual stream jumped when it was processed, early in the model against late; its
/// score is fixed when it is seen. One score for all layers and heads.
class HiddenJump : public ArrivalScorer {
 public:
  explicit HiddenJump(const Parameters& parameters)
      : ArrivalScorer(parameters.optional_integer("recent")),
        window_(parameters.integer("window")),
        given_early_(parameters.optional_integer("early")),
        given_late_(parameters.optional_integer("late")),
        kind_(parameters.choice("score")) {}

  [[nodiscard]] Needs needs() const override { return {.channels = {traces::Channel::step_norm}}; }

 protected:
  [[nodiscard]] double arrive(const CacheView& cache, int head, Index token) override {
    if (head > 0) return last_;
    if (early_.empty()) {
      early_ = layers(cache, given_early_, "early", early_layer, early_band);
      late_ = layers(cache, given_late_, "late", late_layer, late_band);
    }
    last_ = mean_over(cache, early_, token) - mean_over(cache, late_, token);
    return last_;
  }

 private:
  [[nodiscard]] double mean_over(const CacheView& cache, const std::vector<int>& layers, Index token) const {
    double sum = 0;
    for (const int layer : layers) sum += jump(cache.channel(traces::Channel::step_norm, layer), token);
    return sum / static_cast<double>(layers.size());
  }

  /// Of one layer: the z value of the token's step among the last ones, or their mean.
  [[nodiscard]] double jump(std::span<const float> steps, Index token) const {
    // Nothing lies before the first token, so it took no step.
    const Index first = std::max<Index>(1, token + 1 - window_);
    const Index count = std::max<Index>(0, token + 1 - first);
    const Moments moments =
        moments_of(steps.subspan(static_cast<std::size_t>(token + 1 - count), static_cast<std::size_t>(count)));
    if (kind_ == "mean") return moments.mean;
    if (moments.count < 2) return 0;
    return (steps[static_cast<std::size_t>(token)] - moments.mean) / (moments.deviation + smallest_deviation);
  }

  [[nodiscard]] std::vector<int> layers(const CacheView& cache, std::optional<std::int64_t> given, const char* name,
                                        double middle, const double (&band)[2]) const {
    const std::vector<int>& captured = cache.captured_layers();
    if (given) {
      if (!std::binary_search(captured.begin(), captured.end(), static_cast<int>(*given))) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("must be a captured layer; the trace has {}", fmt::join(captured, ", ")),
                    {.parameter = name, .value = std::to_string(*given)});
      }
      return {static_cast<int>(*given)};
    }
    std::vector<int> chosen;
    for (const int layer : captured) {
      const double depth = layer * paper_layers / cache.geometry().num_layers;
      if (kind_ == "band" && depth >= band[0] && depth <= band[1]) chosen.push_back(layer);
    }
    if (chosen.empty()) chosen.push_back(nearest_layer(cache, middle / paper_layers));
    return chosen;
  }

  Index window_;
  std::optional<std::int64_t> given_early_, given_late_;
  std::string kind_;
  std::vector<int> early_, late_;  ///< layers, from the first token on
  double last_ = 0;                ///< of the token judged last
};

const Registration registration(
    {.name = "hidden_jump",
     .sentence = "Keeps tokens at which the residual stream jumped, early in the model against late.",
     .citation = "EpiKV, arXiv 2606.26472",
     .parameters = hidden_jump_parameters(),
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<HiddenJump>(parameters); }),
     .default_schedule = "every()"});

}  // namespace
}  // namespace evictsim::policies
