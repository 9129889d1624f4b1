#include <algorithm>

#include "models/kv_codec.h"
#include "policies/in_place_codes.h"
#include "policies/registry.h"

namespace evictsim::policies {
namespace {

/// What the policy cut is quantised in place and stays attended: values token by token, in groups of channels; keys
/// channel by channel, in groups of tokens, which stay exact until their group is full.
class Kivi : public InPlaceCodes {
 public:
  explicit Kivi(const Parameters& parameters)
      : codec_{static_cast<int>(parameters.integer("bits"))},
        group_(parameters.integer("group")),
        residual_(parameters.integer("residual")) {}

 protected:
  void encode(const PlacementView& layer, int head, Head& own) override {
    for (const std::int32_t row : own.log.append(layer.cold(head), layer.hot().seen() - residual_)) {
      own.bytes += quantise_value(own.values.row(row));
      ++own.coded_values;
    }
    for (; own.coded_keys + group_ <= std::ssize(own.log.rows()); own.coded_keys += group_) {
      own.bytes += quantise_keys(
          own, own.log.rows().subspan(static_cast<std::size_t>(own.coded_keys), static_cast<std::size_t>(group_)));
    }
  }

 private:
  /// Codes and decodes `numbers`; answers with the bytes of the code.
  Index replace(std::span<float> numbers) const {
    std::vector<std::uint8_t> code;
    codec_.encode(numbers, code);
    codec_.decode(code, numbers);
    return std::ssize(code);
  }

  Index quantise_value(std::span<float> value) const {
    Index bytes = 0;
    for (std::size_t begin = 0; begin < value.size(); begin += static_cast<std::size_t>(group_)) {
      bytes += replace(value.subspan(begin, std::min(static_cast<std::size_t>(group_), value.size() - begin)));
    }
    return bytes;
  }

  Index quantise_keys(Head& own, std::span<const std::int32_t> rows) const {
    Index bytes = 0;
    std::vector<float> channel(rows.size());
    for (std::size_t c = 0; c < own.keys.row(rows.front()).size(); ++c) {
      for (std::size_t i = 0; i < rows.size(); ++i) channel[i] = own.keys.row(rows[i])[c];
      bytes += replace(channel);
      for (std::size_t i = 0; i < rows.size(); ++i) own.keys.row(rows[i])[c] = channel[i];
    }
    return bytes;
  }

  models::UniformCodec codec_;
  Index group_;
  Index residual_;
};

const Registration registration(
    {.name = "kivi",
     .sentence = "Quantises what the policy cut in place: keys per channel, values per token; the rest stays exact.",
     .citation = "KIVI, arXiv 2402.02750; jy-yuan/KIVI",
     .parameters = {integer_parameter("bits", "2", 1, 8, "of a code"),
                    integer_parameter("group", "32", 1, 65536, "tokens (keys) and channels (values) of one scale"),
                    integer_parameter("residual", "0", 0, 1e9,
                                      "newest tokens that stay exact even where the policy cut them")},
     .make = MakePlacement([](const Parameters& parameters) { return std::make_unique<Kivi>(parameters); }),
     .is_policy = true,
     .default_policy = "window()"});

}  // namespace
}  // namespace evictsim::policies
