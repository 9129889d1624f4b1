#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <iterator>

#include "policies/block_eviction.h"
#include "policies/registry.h"
#include "policies/scoring.h"
#include "traces/error.h"

namespace evictsim::policies {
namespace {

/// Sizes of the areas in entries, all multiples of `block`.
struct Areas {
  Index block = 1;
  Index start = 0;
  Index evictable = 0;
  Index recent = 0;
  Index crushed = 0;  ///< blocks that KVCrush keeps beside them
};

/// Blocks of the middle of the cache go, those of least attention first, whenever the budget is exceeded, until the
/// areas and a partly filled block are left. All heads of a layer keep the same entries.
class OpenVino : public Scorer {
 public:
  explicit OpenVino(const Parameters& parameters)
      : start_(parameters.integer("start")),
        recent_(parameters.integer("recent")),
        block_(parameters.integer("block")),
        max_pool_(parameters.integer("max_pool")),
        window_(parameters.integer("snapkv_window")),
        normalise_(parameters.choice("aggregation") == "norm_sum"),
        adaptive_(parameters.choice("aggregation") == "adaptive_rkv"),
        adaptive_window_(parameters.integer("adaptive_window")),
        mass_(parameters.real("mass")),
        crush_(parameters.integer("crush")),
        anchor_(parameters.choice("anchor")) {
    for (const auto& [name, size] : {std::pair("start", start_), std::pair("recent", recent_)}) {
      if (size % block_ != 0) {
        throw Error(ErrorCode::invalid_argument, fmt::format("must be a multiple of block={}", block_),
                    {.parameter = fmt::format("openvino: {}", name), .value = std::to_string(size)});
      }
    }
  }

  void begin_decode(const CacheView& prompt) override { begin(prompt); }

  void observe(const StepView& step) override {
    std::vector<double> received(static_cast<std::size_t>(step.seen()), 0.0);
    for (int head = 0; head < step.heads(); ++head) {
      const auto entries = step.entries(head);
      const QueryHeads queries = step.query_heads(head);
      for (int query_head = queries.first; query_head < queries.first + queries.count; ++query_head) {
        const std::span<const float> attention = step.attention(query_head);
        for (std::size_t i = 0; i < entries.size(); ++i) {
          received[static_cast<std::size_t>(entries[i])] += static_cast<double>(attention[i]);
        }
      }
    }
    add(step, received);
  }

  void score(const CacheView& cache, const CutBudget& budget, LayerScores& scores) override {
    if (sums_.empty() && queue_.empty()) begin(cache);
    const Areas areas = areas_of(budget);
    bool evicts = false;
    for (int head = 0; head < cache.heads(); ++head) {
      const auto entries = cache.entries(head);
      const std::vector<double> tokens = token_scores(entries, cache);
      std::transform(tokens.begin(), tokens.end(), scores.of(head).begin(),
                     [](double value) { return static_cast<float>(value); });
      if (std::ssize(entries) <= budget.entries) continue;
      const std::vector<Index> blocks = blocks_to_evict(cache, head, areas, tokens);
      evicts = evicts || !blocks.empty();
      for (const Index block : blocks) {
        for (Index i = 0; i < areas.block; ++i) scores.drop(head, areas.start + block * areas.block + i);
      }
    }
    // Adaptive R-KV's window starts anew with every eviction.
    if (evicts) queue_.clear();
  }

  [[nodiscard]] bool depends_on_budget() const override { return true; }
  [[nodiscard]] Needs needs() const override {
    return {.window_queries = window_, .all_queries = window_ == 0, .decode_attention = true};
  }

 private:
  /// The areas whose sum, with a block that is being filled and those that KVCrush keeps, the budget holds. Where that
  /// is too little for start and recent, they shrink to leave a block between them, and below two blocks the blocks
  /// shrink.
  [[nodiscard]] Areas areas_of(const CutBudget& budget) const {
    Areas areas{.block = std::clamp<Index>((budget.entries + 1) / 2, 1, block_)};
    Index blocks = (budget.entries + 1 - areas.block) / areas.block;
    areas.crushed = adaptive_ ? 0 : std::min(crush_, blocks - 1);
    blocks -= areas.crushed;
    Index start = start_ / block_;
    Index recent = recent_ / block_;
    if (start + recent > blocks - 1) {
      recent = std::min(recent, blocks / 2);
      start = std::min(start, blocks - 1 - recent);
    }
    areas.start = start * areas.block;
    areas.recent = recent * areas.block;
    areas.evictable = blocks * areas.block - areas.start - areas.recent;
    return areas;
  }

  void begin(const CacheView& prompt) {
    prompt_length_ = prompt.prompt_length();
    sums_.clear();
    queue_.clear();
    std::vector<double> received(static_cast<std::size_t>(prompt.seen()), 0.0);
    const Index window = std::min(window_, prompt.seen());
    for (int query_head = 0; query_head < prompt.geometry().num_query_heads; ++query_head) {
      if (window_ == 0) {
        const std::span<const double> sums = prompt.accumulated_attention(query_head);
        for (std::size_t i = 0; i < received.size(); ++i) received[i] += sums[i];
      } else {
        const models::MatrixView attention = prompt.window_attention(query_head, window);
        for (Index i = 0; i < attention.rows(); ++i) {
          received[static_cast<std::size_t>(i)] += attention.row(i).cast<double>().sum();
        }
      }
    }
    add(prompt, received);
  }

  /// Adds what the entries received, by token row, to what they are known to have received.
  void add(const LayerView& layer, std::vector<double> received) {
    if (adaptive_) {
      queue_.push_back(std::move(received));
      if (std::ssize(queue_) > adaptive_window_) queue_.pop_front();
      return;
    }
    sums_.resize(received.size(), 0.0);
    std::vector<std::int32_t> resident;
    for (int head = 0; head < layer.heads(); ++head) {
      std::vector<std::int32_t> both;
      std::set_union(resident.begin(), resident.end(), layer.entries(head).begin(), layer.entries(head).end(),
                     std::back_inserter(both));
      resident = std::move(both);
    }
    std::vector<double> row;
    for (const std::int32_t entry : resident) row.push_back(received[static_cast<std::size_t>(entry)]);
    row = forward_max(row);
    for (std::size_t i = 0; i < row.size(); ++i) sums_[static_cast<std::size_t>(resident[i])] += row[i];
  }

  /// The largest of each value and the max_pool - 1 behind it.
  [[nodiscard]] std::vector<double> forward_max(const std::vector<double>& row) const {
    std::vector<double> pooled;
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::size_t end = std::min(row.size(), i + static_cast<std::size_t>(max_pool_));
      pooled.push_back(*std::max_element(row.begin() + static_cast<std::ptrdiff_t>(i),
                                         row.begin() + static_cast<std::ptrdiff_t>(end)));
    }
    return pooled;
  }

  [[nodiscard]] std::vector<double> token_scores(std::span<const std::int32_t> entries, const CacheView& cache) const {
    std::vector<double> scores;
    for (const std::int32_t entry : entries) {
      const auto row = static_cast<std::size_t>(entry);
      if (adaptive_) {
        double sum = 0;
        for (const std::vector<double>& received : queue_) sum += row < received.size() ? received[row] : 0.0;
        scores.push_back(sum / static_cast<double>(std::max<std::size_t>(1, queue_.size())));
      } else {
        // The queries that the sum is made of: the prompt's window and every later one.
        const Index first = window_ == 0 ? 0 : prompt_length_ - window_;
        const auto lifetime = static_cast<double>(cache.seen() - std::max<Index>(entry, first));
        scores.push_back(normalise_ ? sums_[row] / lifetime : sums_[row]);
      }
    }
    return adaptive_ ? forward_max(scores) : scores;
  }

  /// Blocks of the area between start and recent, counted from its first.
  [[nodiscard]] std::vector<Index> blocks_to_evict(const CacheView& cache, int head, const Areas& areas,
                                                   const std::vector<double>& tokens) const {
    const auto entries = cache.entries(head);
    const Index blocks = std::ssize(entries) / areas.block - (areas.start + areas.recent) / areas.block;
    const Index keep = areas.evictable / areas.block;
    std::vector<double> block_scores(static_cast<std::size_t>(blocks), 0.0);
    std::vector<double> sums;
    for (Index i = 0; i < blocks * areas.block; ++i) {
      const auto place = static_cast<std::size_t>(areas.start + i);
      block_scores[static_cast<std::size_t>(i / areas.block)] += tokens[place];
      if (!adaptive_) sums.push_back(sums_[static_cast<std::size_t>(entries[place])]);
    }
    if (adaptive_) {
      std::vector<models::MatrixView> keys;
      for (int other = 0; other < cache.heads(); ++other) {
        const auto theirs = cache.entries(other);
        if (!std::equal(theirs.begin(), theirs.end(), entries.begin(), entries.end())) continue;
        const models::MatrixView all = cache.keys(other);
        keys.push_back(models::view(all.data() + areas.start * all.outerStride(), blocks * areas.block, all.cols(),
                                    all.outerStride()));
      }
      return adaptive_blocks_to_evict(block_scores, keys, keep, mass_);
    }
    std::vector<Index> evicted = weakest_blocks(block_scores, blocks - keep);
    if (areas.crushed == 0 || std::ssize(evicted) < areas.crushed) return evicted;
    const std::vector<Index> stay =
        crush_representatives(sums, anchor(cache, areas.block, sums), evicted, areas.crushed);
    std::vector<Index> gone;
    std::set_difference(evicted.begin(), evicted.end(), stay.begin(), stay.end(), std::back_inserter(gone));
    return gone;
  }

  [[nodiscard]] std::vector<int> anchor(const CacheView& cache, Index block, std::span<const double> sums) const {
    if (anchor_ == "mean") return mean_pattern(sums, block);
    std::vector<int> pattern(static_cast<std::size_t>(block), anchor_ == "ones" ? 1 : 0);
    std::mt19937_64 generator = cache.generator(0);
    for (std::size_t i = 0; i < pattern.size(); ++i) {
      if (anchor_ == "alternating") pattern[i] = static_cast<int>(i % 2);
      if (anchor_ == "random") pattern[i] = static_cast<int>(generator() & 1U);
    }
    return pattern;
  }

  Index start_;
  Index recent_;
  Index block_;
  Index max_pool_;
  Index window_;
  bool normalise_;
  bool adaptive_;
  Index adaptive_window_;
  double mass_;
  Index crush_;
  std::string anchor_;
  Index prompt_length_ = 0;
  std::vector<double> sums_;               ///< [token row]; not for adaptive_rkv
  std::deque<std::vector<double>> queue_;  ///< [query][token row], the last ones; adaptive_rkv only
};

const Registration registration(
    {.name = "openvino",
     .sentence = "Keeps first and newest tokens, and of the blocks between them those that received most attention.",
     .citation = "OpenVINO GenAI cache_eviction.cpp; KVCrush, arXiv 2503.00022; R-KV, arXiv 2505.24133 (adaptive_rkv)",
     .parameters = {integer_parameter("start", "32", 0, 1e9, "first tokens kept, a multiple of block"),
                    integer_parameter("recent", "128", 0, 1e9, "newest tokens kept, a multiple of block"),
                    integer_parameter("block", "16", 1, 65536, "tokens per block"),
                    choice_parameter("aggregation", {"norm_sum", "sum", "adaptive_rkv"},
                                     "sums of attention over the queries that attended, such sums as they are, or the "
                                     "mean over the last queries and diversity of keys"),
                    integer_parameter("max_pool", "7", 1, 1023, "a token counts as the best of so many from it on"),
                    integer_parameter("snapkv_window", "8", 0, 65536, "last prompt queries that count; 0: all"),
                    integer_parameter("crush", "0", 0, 1e6, "KVCrush: blocks kept for variety, of those that would go"),
                    choice_parameter("anchor", {"random", "zeros", "ones", "mean", "alternating"},
                                     "KVCrush: pattern from which distances are measured"),
                    integer_parameter("adaptive_window", "8", 1, 65536, "adaptive_rkv: last queries that count"),
                    real_parameter("mass", "0.9", 0, 1, "adaptive_rkv: share of attention that is kept as it is")},
     .make = MakeScorer([](const Parameters& parameters) { return std::make_unique<OpenVino>(parameters); }),
     .is_policy = true,
     .default_schedule = "every()"});

}  // namespace
}  // namespace evictsim::policies
