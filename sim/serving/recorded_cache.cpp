#include "sim/serving/recorded_cache.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "traces/error.h"

namespace evictsim::sim {
namespace {

std::int64_t in_units(double entries) { return std::llround(entries * static_cast<double>(resident_units_per_entry)); }

class RecordedCache final : public ResidentCache {
 public:
  explicit RecordedCache(const RecordedSequence& sequence) : prompt_(sequence.prompt) {
    TierBytes kept = sequence.written;
    for (const RecordedStep& step : sequence.steps) {
      const std::int64_t context = prompt_ + static_cast<std::int64_t>(steps_.size()) + 1;
      const std::int64_t most = context * resident_units_per_entry;
      for (std::size_t tier = 0; tier < kept.size(); ++tier) kept[tier] += step.written[tier];
      steps_.push_back({in_units(step.attended + step.also_read),
                        std::clamp<std::int64_t>(in_units(step.held), 1, most),
                        {step.recalled, kept},
                        0,
                        context});
      moves_ = moves_ || steps_.back().traffic != TierTraffic{};
    }
    find_spans();
  }

  [[nodiscard]] std::int64_t units_per_entry() const override { return resident_units_per_entry; }

  [[nodiscard]] ReadSpan reads(std::int64_t prompt, std::int64_t context) const override {
    if (context <= prompt) return {context * resident_units_per_entry, resident_units_per_entry, 0, prompt};
    const Step& step = at(context);
    return {step.units, step.growth, 0, std::max(step.until, context)};
  }

  [[nodiscard]] std::int64_t blocks(std::int64_t prompt, std::int64_t context, int block_tokens) const override {
    const std::int64_t all = (context + block_tokens - 1) / block_tokens;
    if (context <= prompt || steps_.empty()) return all;
    const std::int64_t page = resident_units_per_entry * block_tokens;
    return std::clamp<std::int64_t>((at(context).held + page - 1) / page, 1, all);
  }

  [[nodiscard]] ChunkReads chunk(std::int64_t cached, std::int64_t tokens) const override {
    return causal_chunk(cached, tokens);
  }

  [[nodiscard]] bool moves() const override { return moves_; }
  [[nodiscard]] TierTraffic traffic(std::int64_t prompt, std::int64_t context) const override {
    return context <= prompt ? TierTraffic{} : at(context).traffic;
  }

 private:
  struct Step {
    std::int64_t units = 0;
    std::int64_t held = 0;  ///< in units
    TierTraffic traffic;
    std::int64_t growth = 0;  ///< of units, up to `until`
    std::int64_t until = 0;   ///< a context
  };

  [[nodiscard]] const Step& at(std::int64_t context) const {
    return steps_[static_cast<std::size_t>(
        std::clamp<std::int64_t>(context - prompt_ - 1, 0, static_cast<std::int64_t>(steps_.size()) - 1))];
  }

  /// Steps that read equally much more than the one before, hold no less, and move nothing, are one span.
  void find_spans() {
    for (std::size_t i = steps_.size(); i-- > 1;) {
      Step& step = steps_[i - 1];
      const Step& next = steps_[i];
      const bool still = step.traffic.recalled == TierBytes{} && next.traffic.recalled == TierBytes{} &&
                         step.traffic.held == next.traffic.held;
      if (!still || next.held < step.held || next.units < step.units) continue;
      step.growth = next.units - step.units;
      const bool goes_on = next.until > prompt_ + static_cast<std::int64_t>(i) + 1 && next.growth == step.growth;
      step.until = goes_on ? next.until : prompt_ + static_cast<std::int64_t>(i) + 1;
    }
  }

  std::int64_t prompt_;
  std::vector<Step> steps_;
  bool moves_ = false;
};

class FullCache final : public ResidentCache {
 public:
  [[nodiscard]] std::int64_t units_per_entry() const override { return resident_units_per_entry; }
  [[nodiscard]] ReadSpan reads(std::int64_t /*prompt*/, std::int64_t context) const override {
    return {context * resident_units_per_entry, resident_units_per_entry, 0, std::int64_t{1} << 60U};
  }
  [[nodiscard]] std::int64_t blocks(std::int64_t /*prompt*/, std::int64_t context, int block_tokens) const override {
    return (context + block_tokens - 1) / block_tokens;
  }
  [[nodiscard]] ChunkReads chunk(std::int64_t cached, std::int64_t tokens) const override {
    return causal_chunk(cached, tokens);
  }
};

}  // namespace

std::shared_ptr<const ResidentCache> recorded_cache(RecordedSequence sequence) {
  const auto require = [&](bool holds, const char* what) {
    if (holds) return;
    throw Error(ErrorCode::invalid_argument, std::string("a recorded sequence cannot have that: ") + what,
                {.parameter = "sequence", .value = sequence.name});
  };
  const auto positive = [](const TierBytes& bytes) { return bytes[0] >= 0 && bytes[1] >= 0; };
  require(sequence.prompt >= 1, "expected a prompt of at least 1 token");
  require(positive(sequence.written), "expected bytes from 0 on");
  for (const RecordedStep& step : sequence.steps) {
    constexpr double most = 1e9;
    require(step.attended >= 0 && step.attended <= most && step.held >= 0 && step.held <= most && step.also_read >= 0 &&
                step.also_read <= most,
            "expected entries from 0 to 1e9");
    require(positive(step.recalled) && positive(step.written), "expected bytes from 0 on");
  }
  return std::make_shared<RecordedCache>(sequence);
}

std::shared_ptr<const ResidentCache> full_recorded_cache() { return std::make_shared<FullCache>(); }

}  // namespace evictsim::sim
