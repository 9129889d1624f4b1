#pragma once
/// \file
/// A layer of a golden trace as a cache, for tests that ask a part of a policy rather than a replay.

#include <fmt/format.h>

#include <string>

#include "tests/support/cache_double.h"
#include "tests/support/h5_file.h"
#include "traces/reader.h"

namespace evictsim::test {

/// "layer_007"
inline std::string layer_name(int layer) { return fmt::format("layer_{:03}", layer); }

/// The first `prompt` rows of a layer of a golden trace as a whole prompt; `see` brings the others.
class TraceCache : public tests::CacheDouble {
 public:
  TraceCache(const H5File& trace, const traces::Header& header, int layer, int prompt)
      : CacheDouble(shape_of(trace, layer, prompt)), layer_(layer), rope_(models::Rope::of(header)) {
    fill(trace, "k", all_keys);
    fill(trace, "v", all_values);
    fill(trace, "q", all_queries);
  }
  [[nodiscard]] int layer() const override { return layer_; }
  [[nodiscard]] const models::Rope& rope() const override { return rope_; }

 private:
  static std::string path(int layer, const std::string& name) {
    return "/sequences/000000/" + layer_name(layer) + "/" + name;
  }
  static tests::CacheShape shape_of(const H5File& trace, int layer, int prompt) {
    const H5Array keys = trace.read(path(layer, "k"));
    const H5Array queries = trace.read(path(layer, "q"));
    return {.query_heads = static_cast<int>(queries.shape[1]),
            .kv_heads = static_cast<int>(keys.shape[1]),
            .head_dim = static_cast<int>(keys.shape[2]),
            .prompt = prompt,
            .length = static_cast<int>(keys.shape[0])};
  }
  void fill(const H5File& trace, const std::string& name, std::vector<models::Matrix>& heads) const {
    const H5Array stored = trace.read(path(layer_, name));
    const std::size_t width = stored.shape[2];
    for (std::size_t head = 0; head < heads.size(); ++head) {
      for (std::size_t row = 0; row < stored.shape[0]; ++row) {
        for (std::size_t c = 0; c < width; ++c) {
          heads[head](static_cast<Index>(row), static_cast<Index>(c)) =
              static_cast<float>(stored.values[(row * stored.shape[1] + head) * width + c]);
        }
      }
    }
  }

  int layer_;
  models::Rope rope_;
};

}  // namespace evictsim::test
