#include "sim/serving/profiled_cache.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <utility>

#include "traces/error.h"

namespace evictsim::sim {
namespace {

constexpr std::int64_t units = resident_units_per_entry;
/// The score of an entry takes its key, half of its bytes.
constexpr double key_share = 0.5;

/// Rounded; from 0 on. Called for every block asked for, which std::llround would dominate.
std::int64_t in_units(double entries) { return static_cast<std::int64_t>(entries * static_cast<double>(units) + 0.5); }

/// The lower of two lines over the number of decoded tokens; the first one begins lower and is the steeper one.
struct BentLine {
  std::int64_t first = 0, first_growth = 0;
  std::int64_t second = 0, second_growth = 0;

  [[nodiscard]] bool on_first(std::int64_t decoded) const {
    return first + first_growth * decoded <= second + second_growth * decoded;
  }
  [[nodiscard]] std::int64_t at(std::int64_t decoded) const {
    return on_first(decoded) ? first + first_growth * decoded : second + second_growth * decoded;
  }
  /// The last number of decoded tokens of the line on which `decoded` lies.
  [[nodiscard]] std::int64_t last(std::int64_t decoded) const {
    if (!on_first(decoded) || first_growth <= second_growth) return std::numeric_limits<std::int64_t>::max();
    return (second - first) / (first_growth - second_growth);
  }
};

class ProfiledCache final : public ResidentCache {
 public:
  ProfiledCache(CacheProfile profile, double seconds_per_recalled_entry)
      : profile_(std::move(profile)), recall_seconds_(seconds_per_recalled_entry) {
    for (const CacheProfile::Heads& heads : profile_.heads) weight_ += heads.weight;
    caches_per_kv_head_ = static_cast<double>(weight_) / static_cast<double>(profile_.kv_heads);
  }

  [[nodiscard]] std::int64_t units_per_entry() const override { return units; }

  [[nodiscard]] ReadSpan reads(std::int64_t prompt, std::int64_t context) const override {
    constexpr std::int64_t forever = std::numeric_limits<std::int64_t>::max();
    if (context <= prompt) return {context * units, units, 0, prompt};
    const BentLine line = read_line(prompt);
    const std::int64_t decoded = context - prompt;
    const std::int64_t last = line.last(decoded);
    const double recall = profile_.recalled_entries(prompt) * recall_seconds_;
    return {line.at(decoded), line.on_first(decoded) ? line.first_growth : line.second_growth,
            std::llround(recall * 1e15), last > forever - prompt ? forever : prompt + last};
  }

  [[nodiscard]] std::int64_t blocks(std::int64_t prompt, std::int64_t context, int block_tokens) const override {
    const std::int64_t all = (context + block_tokens - 1) / block_tokens;
    if (context <= prompt) return all;
    const std::int64_t grown = held_growth(prompt, context - prompt);
    const std::int64_t page = units * block_tokens;
    std::int64_t pages = 0;
    for (const CacheProfile::Heads& heads : profile_.heads) {
      const std::int64_t held = in_units(stored(heads.kept, prompt)) + grown;
      pages += heads.weight * ((held + page - 1) / page);
    }
    return std::clamp<std::int64_t>((pages + profile_.kv_heads - 1) / profile_.kv_heads, 1, all);
  }

  [[nodiscard]] ChunkReads chunk(std::int64_t cached, std::int64_t tokens) const override {
    return causal_chunk(cached, tokens);
  }

  [[nodiscard]] double tokens_below(std::int64_t prompt) const override {
    return profile_.host_share * static_cast<double>(prompt);
  }

 private:
  [[nodiscard]] double kept(double scaled, std::int64_t prompt) const {
    return std::min(profile_.entries(scaled, prompt), static_cast<double>(prompt));
  }
  /// What a head's entries after the cut and its share of the rest take, in whole entries.
  [[nodiscard]] double stored(double scaled, std::int64_t prompt) const {
    return profile_.stored_per_entry * kept(scaled, prompt) + profile_.stored_share * static_cast<double>(prompt);
  }
  template <typename Amount>
  [[nodiscard]] double mean(Amount amount) const {
    double sum = 0;
    for (const CacheProfile::Heads& heads : profile_.heads) sum += static_cast<double>(heads.weight) * amount(heads);
    return sum / static_cast<double>(weight_);
  }

  /// Per cache head: from the cut on `first`, one entry more per token until the level is reached.
  [[nodiscard]] BentLine held_line(std::int64_t prompt) const {
    const double first = mean([&](const CacheProfile::Heads& heads) { return stored(heads.kept, prompt); });
    return from_cut(first, profile_.stored_per_entry, 1, prompt);
  }
  [[nodiscard]] std::int64_t held_growth(std::int64_t prompt, std::int64_t decoded) const {
    if (!profile_.level) return decoded * in_units(profile_.stored_per_entry * profile_.growth);
    const BentLine mean = held_line(prompt);
    return mean.at(decoded) - mean.first;
  }
  [[nodiscard]] BentLine from_cut(double first, double per_entry, double factor, std::int64_t prompt) const {
    const double growth = factor * per_entry;
    BentLine line{in_units(factor * first), in_units(growth), in_units(factor * first),
                  in_units(growth * profile_.growth)};
    if (!profile_.level) {
      line.first_growth = line.second_growth;
      return line;
    }
    line.second = std::max(line.first, in_units(growth * profile_.entries(*profile_.level, prompt)));
    return line;
  }

  /// Mean over KV heads, with what scoring and scanning read.
  [[nodiscard]] BentLine read_line(std::int64_t prompt) const {
    const double factor = caches_per_kv_head_;
    BentLine line;
    if (profile_.attended) {
      const CacheProfile::Reads& attended = *profile_.attended;
      const double level = profile_.entries(attended.level, prompt) + attended.share * static_cast<double>(prompt);
      line = {in_units(factor * static_cast<double>(prompt)), in_units(factor), in_units(factor * level),
              in_units(factor * attended.growth)};
    } else {
      line =
          from_cut(mean([&](const CacheProfile::Heads& heads) { return kept(heads.kept, prompt); }), 1, factor, prompt);
    }
    const double fixed =
        key_share * profile_.entries(profile_.scored, prompt) + profile_.scanned_share * static_cast<double>(prompt);
    line.first += in_units(fixed);
    line.second += in_units(fixed);
    line.first_growth += in_units(profile_.scanned_share);
    line.second_growth += in_units(profile_.scanned_share);
    return line;
  }

  CacheProfile profile_;
  double recall_seconds_;
  std::int64_t weight_ = 0;
  double caches_per_kv_head_ = 1;
};

void check(const CacheProfile& profile, double seconds_per_recalled_entry) {
  constexpr double most = 1e9;
  const auto require = [&](double value, double limit, const char* what) {
    if (value >= 0 && value <= limit) return;
    throw Error(ErrorCode::invalid_argument, "a cache cannot have that: expected a number from 0 on",
                {.parameter = what, .value = std::to_string(value)});
  };
  std::int64_t weight = 0;
  for (const CacheProfile::Heads& heads : profile.heads) {
    require(heads.kept, CacheProfile::everything, "kept entries");
    require(static_cast<double>(heads.weight), most, "number of heads");
    weight += heads.weight;
  }
  if (weight < 1 || profile.kv_heads < 1) {
    throw Error(ErrorCode::invalid_argument, "a profile of no heads", {.parameter = "policy", .value = profile.policy});
  }
  require(profile.stored_per_entry, most, "bytes per entry");
  require(profile.stored_share, most, "other bytes");
  require(profile.host_share, most, "bytes on the host");
  require(profile.growth, 1, "growth per token");
  if (profile.level) require(*profile.level, most, "level");
  if (profile.attended) {
    require(profile.attended->level, most, "attended entries");
    require(profile.attended->share, most, "attended share");
    require(profile.attended->growth, 1, "growth of attended entries");
  }
  for (const double value : {profile.scored, profile.scanned_share, profile.recalled, seconds_per_recalled_entry}) {
    require(value, most, "work per step");
  }
}

}  // namespace

bool CacheProfile::keeps_everything() const {
  std::int64_t weight = 0;
  for (const Heads& group : heads) {
    if (in_entries || group.kept < 1) return false;
    weight += group.weight;
  }
  const bool grows = growth == 1 && !level && !attended;
  return weight == kv_heads && grows && stored_per_entry == 1 && stored_share == 0 && scored == 0 &&
         scanned_share == 0 && recalled == 0 && host_share == 0;
}

std::shared_ptr<const ResidentCache> profiled_cache(CacheProfile profile, double seconds_per_recalled_entry) {
  check(profile, seconds_per_recalled_entry);
  if (profile.keeps_everything()) return nullptr;
  return std::make_shared<ProfiledCache>(std::move(profile), seconds_per_recalled_entry);
}

}  // namespace evictsim::sim
