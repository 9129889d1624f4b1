#include <algorithm>
#include <cmath>
#include <optional>

#include "models/kv_codec.h"
#include "policies/in_place_codes.h"
#include "policies/registry.h"
#include "traces/half.h"

namespace evictsim::policies {
namespace {

/// The number at `share` of the way through `numbers` in order, between two neighbours as numpy.percentile has it.
double quantile(std::vector<double>& numbers, double share) {
  std::sort(numbers.begin(), numbers.end());
  const double place = share * static_cast<double>(numbers.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, numbers.size() - 1);
  return numbers[below] + (numbers[above] - numbers[below]) * (place - static_cast<double>(below));
}

/// What the two bounds are once they are stored as float16.
float stored_half(double value) { return traces::half_to_float(traces::float_to_half(static_cast<float>(value))); }

/// What the policy cut is quantised in place to levels found by k-means: keys per channel before RoPE, values per
/// token; outliers and the first tokens stay exact.
class KvQuant : public InPlaceCodes {
 public:
  explicit KvQuant(const Parameters& parameters)
      : bits_(static_cast<int>(parameters.integer("bits"))),
        outliers_(parameters.real("outliers")),
        exact_first_(parameters.integer("exact_first")) {}

  [[nodiscard]] TierBytes stored(const PlacementView& layer) const override {
    TierBytes bytes = InPlaceCodes::stored(layer);
    const bool coded = std::any_of(heads().begin(), heads().end(), [](const Head& own) { return own.bytes > 0; });
    if (coded) {
      // The levels of keys and values, and two float16 bounds for every channel of every KV head.
      const Index channels = Index{layer.hot().geometry().num_kv_heads} * layer.hot().geometry().head_dim;
      bytes[Tier::hbm] += static_cast<double>(key_codec_->shared_bytes() + value_codec_->shared_bytes() + 4 * channels);
    }
    return bytes;
  }

 protected:
  void prepare(const PlacementView& layer) override { calibrate(layer); }

  void encode(const PlacementView& layer, int head, Head& own) override {
    for (const std::int32_t row : own.log.append(layer.cold(head), layer.hot().seen())) {
      if (row < exact_first_) continue;
      own.bytes += quantise_key(layer, kv_head_of(layer, head), row, own.keys.row(row));
      own.bytes += quantise_value(own.values.row(row));
      ++own.coded_keys;
      ++own.coded_values;
    }
  }

 private:
  /// Bounds of the numbers that are no outliers.
  struct Bounds {
    std::vector<float> lower, upper;
  };

  /// The prompt stands for the calibration set: bounds of every key channel, and the levels of keys and of values.
  void calibrate(const PlacementView& layer) {
    constexpr Index most_rows = 2048;
    const models::Geometry& geometry = layer.hot().geometry();
    const Index prompt = layer.hot().prompt_length();
    const Index stride = (prompt + most_rows - 1) / most_rows;
    std::vector<float> keys, values;
    for (int head = 0; head < geometry.num_kv_heads; ++head) {
      std::vector<std::vector<double>> channels(static_cast<std::size_t>(geometry.head_dim));
      for (Index row = 0; row < prompt; row += stride) {
        const std::vector<float> key = before_rope(layer, head, row);
        for (std::size_t c = 0; c < channels.size(); ++c) channels[c].push_back(static_cast<double>(key[c]));
        const float* value = layer.values(head).data() + row * layer.values(head).outerStride();
        const std::span<const float> numbers(value, channels.size());
        const std::vector<Index> outliers = value_outliers(numbers);
        const auto [lower, upper] = value_bounds(numbers, outliers);
        for (std::size_t c = 0; c < channels.size(); ++c) {
          const bool is_outlier = std::binary_search(outliers.begin(), outliers.end(), static_cast<Index>(c));
          if (!is_outlier) add_normalised(numbers[c], lower, upper, values);
        }
      }
      Bounds& bounds = key_bounds_.emplace_back();
      for (std::vector<double>& channel : channels) {
        bounds.lower.push_back(stored_half(quantile(channel, outliers_ / 2)));
        bounds.upper.push_back(stored_half(quantile(channel, 1 - outliers_ / 2)));
        for (const double exact : channel) {
          const auto number = static_cast<float>(exact);
          if (is_key_outlier(number, bounds.lower.back(), bounds.upper.back())) continue;
          add_normalised(number, bounds.lower.back(), bounds.upper.back(), keys);
        }
      }
    }
    key_codec_.emplace(bits_, models::kmeans_levels(std::move(keys), 1 << bits_));
    value_codec_.emplace(bits_, models::kmeans_levels(std::move(values), 1 << bits_));
  }

  /// Appends a number that is no outlier, scaled to [-1, 1] but for the rounding of its bounds.
  static void add_normalised(float number, float lower, float upper, std::vector<float>& normalised) {
    const float range = (upper - lower) / 2;
    if (range > 0) normalised.push_back((number - (upper + lower) / 2) / range);
  }

  [[nodiscard]] bool is_key_outlier(float number, float lower, float upper) const {
    return outliers_ > 0 && (number < lower || number > upper);
  }

  static std::vector<float> before_rope(const PlacementView& layer, int kv_head, Index row) {
    const models::MatrixView keys = layer.keys(kv_head);
    const float* begin = keys.data() + row * keys.outerStride();
    std::vector<float> key(begin, begin + keys.cols());
    layer.hot().rope().invert(std::span(key), layer.hot().positions()[static_cast<std::size_t>(row)]);
    return key;
  }

  /// Channels of a value farthest from its median, as many as the share says, ascending.
  [[nodiscard]] std::vector<Index> value_outliers(std::span<const float> numbers) const {
    std::vector<double> ordered(numbers.begin(), numbers.end());
    const double median = quantile(ordered, 0.5);
    std::vector<double> distance;
    for (const float number : numbers) distance.push_back(std::abs(static_cast<double>(number) - median));
    return best_places(distance, std::lround(outliers_ * static_cast<double>(numbers.size())));
  }

  static std::pair<float, float> value_bounds(std::span<const float> numbers, const std::vector<Index>& outliers) {
    std::vector<double> others;
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      if (!std::binary_search(outliers.begin(), outliers.end(), static_cast<Index>(i))) {
        others.push_back(static_cast<double>(numbers[i]));
      }
    }
    if (others.empty()) return {0.0F, 0.0F};
    const auto [least, largest] = std::minmax_element(others.begin(), others.end());
    return {stored_half(*least), stored_half(*largest)};
  }

  [[nodiscard]] Index quantise_key(const PlacementView& layer, int kv_head, Index row, std::span<float> changed) const {
    const Bounds& bounds = key_bounds_[static_cast<std::size_t>(kv_head)];
    std::vector<float> key = before_rope(layer, kv_head, row);
    std::vector<Index> outliers;
    for (std::size_t c = 0; c < key.size(); ++c) {
      if (is_key_outlier(key[c], bounds.lower[c], bounds.upper[c])) outliers.push_back(static_cast<Index>(c));
    }
    std::vector<std::uint8_t> code;
    key_codec_->encode(key, bounds.lower, bounds.upper, outliers, code);
    key_codec_->decode(code, bounds.lower, bounds.upper, key);
    layer.hot().rope().apply(std::span(key), layer.hot().positions()[static_cast<std::size_t>(row)]);
    std::copy(key.begin(), key.end(), changed.begin());
    return std::ssize(code);
  }

  /// A value's code has its two bounds, as float16, beside it.
  [[nodiscard]] Index quantise_value(std::span<float> value) const {
    const std::vector<Index> outliers = value_outliers(value);
    const auto [lower, upper] = value_bounds(value, outliers);
    const std::vector<float> lowers(value.size(), lower), uppers(value.size(), upper);
    std::vector<std::uint8_t> code;
    value_codec_->encode(value, lowers, uppers, outliers, code);
    value_codec_->decode(code, lowers, uppers, value);
    return std::ssize(code) + 4;
  }

  int bits_;
  double outliers_;
  Index exact_first_;
  std::vector<Bounds> key_bounds_;  ///< by KV head
  std::optional<models::NonuniformCodec> key_codec_, value_codec_;
};

const Registration registration(
    {.name = "kvquant",
     .sentence = "Quantises what the policy cut in place to k-means levels: keys before RoPE, with exact outliers.",
     .citation = "KVQuant, arXiv 2401.18079; SqueezeAILab/KVQuant",
     .parameters = {integer_parameter("bits", "3", 1, 8, "of a code"),
                    real_parameter("outliers", "0.01", 0, 0.5, "share of the numbers kept exact"),
                    integer_parameter("exact_first", "1", 0, 1e9, "first tokens that stay exact")},
     .make = MakePlacement([](const Parameters& parameters) { return std::make_unique<KvQuant>(parameters); }),
     .is_policy = true,
     .default_policy = "window()"});

}  // namespace
}  // namespace evictsim::policies
