#include "sim/serving/resident_cache.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <vector>

namespace evictsim::sim {
namespace {

std::int64_t rounded(std::int64_t value, std::int64_t divisor) { return (value + divisor / 2) / divisor; }

/// Reads and holdings that are linear in the context between bends.
class BentCache final : public ResidentCache {
 public:
  explicit BentCache(const models::Llm& llm) {
    for (const models::LlmLayer& layer : llm.layers) units_ += models::kv_elements_per_token(layer.attention);
    std::vector<std::int64_t> bends = {0};
    for (const std::int64_t bend : models::context_bends(llm)) bends.push_back(bend);
    const auto units = [&](double entries) { return std::llround(entries * static_cast<double>(units_)); };
    for (const std::int64_t bend : bends) {
      Segment segment{bend, units(models::mean_entries_read(llm, bend)), 0, units(models::mean_entries_held(llm, bend)),
                      0};
      segment.more_read = units(models::mean_entries_read(llm, bend + 1)) - segment.read;
      segment.more_held = units(models::mean_entries_held(llm, bend + 1)) - segment.held;
      segments_.push_back(segment);
    }
    std::int64_t common = units_;
    for (const Segment& segment : segments_) {
      for (const std::int64_t value : {segment.read, segment.more_read, segment.held, segment.more_held}) {
        common = std::gcd(common, value);
      }
    }
    units_ /= common;
    for (Segment& segment : segments_) {
      for (std::int64_t* value : {&segment.read, &segment.more_read, &segment.held, &segment.more_held})
        *value /= common;
    }
  }

  [[nodiscard]] bool keeps_everything() const {
    return std::all_of(segments_.begin(), segments_.end(), [&](const Segment& segment) {
      return segment.more_read == units_ && segment.more_held == units_;
    });
  }

  [[nodiscard]] std::int64_t units_per_entry() const override { return units_; }

  [[nodiscard]] ReadSpan reads(std::int64_t /*prompt*/, std::int64_t context) const override {
    const std::size_t index = segment_of(context);
    const std::int64_t until =
        index + 1 < segments_.size() ? segments_[index + 1].from : std::numeric_limits<std::int64_t>::max();
    return {read_at(context), segments_[index].more_read, 0, until};
  }

  [[nodiscard]] std::int64_t blocks(std::int64_t /*prompt*/, std::int64_t context, int block_tokens) const override {
    const Segment& segment = segments_[segment_of(context)];
    const std::int64_t held = segment.held + segment.more_held * (context - segment.from);
    const std::int64_t per_block = units_ * block_tokens;
    const std::int64_t all = (context + block_tokens - 1) / block_tokens;
    return std::clamp<std::int64_t>((held + per_block - 1) / per_block, 1, all);
  }

  [[nodiscard]] ChunkReads chunk(std::int64_t cached, std::int64_t tokens) const override {
    // Each query reads what a decode step at its place would.
    std::int64_t pairs = 0;
    const std::int64_t last = cached + tokens;
    for (std::int64_t from = cached + 1; from <= last;) {
      const std::size_t index = segment_of(from);
      const std::int64_t until = index + 1 < segments_.size() ? std::min(last, segments_[index + 1].from) : last;
      const std::int64_t count = until - from + 1;
      pairs += rounded(count * (read_at(from) + read_at(until)), 2 * units_);
      from = until + 1;
    }
    // Windows move on with the queries, so the chunk reads its width more than one query.
    const std::int64_t bounded = units_ - segments_[segment_of(last)].more_read;
    const std::int64_t context = rounded(read_at(last) + bounded * (tokens - 1), units_);
    return {std::min(context, last), pairs};
  }

 private:
  struct Segment {
    std::int64_t from = 0;
    std::int64_t read = 0, more_read = 0;  ///< units at `from`, and per further token
    std::int64_t held = 0, more_held = 0;
  };

  [[nodiscard]] std::size_t segment_of(std::int64_t context) const {
    std::size_t index = segments_.size() - 1;
    while (segments_[index].from > context) --index;
    return index;
  }
  [[nodiscard]] std::int64_t read_at(std::int64_t context) const {
    const Segment& segment = segments_[segment_of(context)];
    return segment.read + segment.more_read * (context - segment.from);
  }

  std::int64_t units_ = 0;
  std::vector<Segment> segments_;
};

}  // namespace

std::shared_ptr<const ResidentCache> resident_cache(const models::Llm& llm) {
  auto cache = std::make_shared<BentCache>(llm);
  if (cache->keeps_everything()) return nullptr;
  return cache;
}

}  // namespace evictsim::sim
