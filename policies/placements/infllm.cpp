#include <algorithm>
#include <numeric>

#include "models/attention.h"
#include "policies/page_cache.h"
#include "policies/registry.h"
#include "policies/retrieval.h"

namespace evictsim::policies {
namespace {

/// The first and the last tokens stay in HBM; blocks of what lies between go to the host and come back, the same for
/// all heads of a layer, when their representative keys match the query.
class InfLlm : public Placement {
 public:
  explicit InfLlm(const Parameters& parameters)
      : block_(parameters.integer("block")),
        init_(parameters.integer("init")),
        local_(parameters.integer("local")),
        topk_(parameters.integer("topk")),
        representatives_(parameters.integer("representatives")),
        cache_blocks_(parameters.integer("cache_blocks")),
        by_score_(parameters.choice("replacement") == "lru_s"),
        decay_(parameters.real("decay")),
        one_distance_(parameters.choice("relevance") == "one_distance") {}

  void begin(const PlacementView& layer) override {
    fit(layer.budget().entries);
    cache_ = PageCache(cache_blocks_);
    const int query_heads = layer.hot().geometry().num_query_heads;
    for (int head = 0; head < query_heads; ++head) {
      const auto received = layer.hot().accumulated_attention(head);
      received_.emplace_back(received.begin(), received.end());
    }
    blocks_begin_ = std::min(init_, layer.hot().seen());
    form_blocks(layer);
    for (Index block = std::max<Index>(0, blocks() - cache_blocks_); block < blocks(); ++block) {
      cache_.marks()[block] = by_score_ ? 0 : static_cast<double>(block - blocks());
    }
  }

  void attend(const PlacementView& layer, AttendedEntries& attended) override {
    ++time_;
    for (auto& received : received_) received.resize(static_cast<std::size_t>(layer.hot().seen()), 0.0);
    attended.traffic.written[Tier::host] += form_blocks(layer);
    const std::vector<Index> chosen = choose(layer);
    const std::vector<Index> absent = cache_.use(chosen, by_score_ ? 0 : time_);
    for (int head = 0; head < layer.hot().heads(); ++head) {
      const auto entries = layer.hot().entries(head);
      std::vector<std::int32_t> rows = between(entries, 0, blocks_begin_);
      Index recalled = 0;
      for (const Index block : chosen) {
        const auto own = between(entries, begin_of(block), begin_of(block + 1));
        rows.insert(rows.end(), own.begin(), own.end());
        if (std::find(absent.begin(), absent.end(), block) != absent.end()) recalled += std::ssize(own);
      }
      const auto local = between(entries, begin_of(blocks()), layer.hot().seen());
      rows.insert(rows.end(), local.begin(), local.end());
      attend_rows(layer, head, rows, attended);
      attended.traffic.recalled[Tier::host] += exact_bytes(layer, recalled);
      count_hits_and_misses(layer, head, recalled, attended);
    }
    attended.traffic.scanned[Tier::hbm] += representative_bytes(layer);
    follow_attention(layer, attended, chosen);
  }

  [[nodiscard]] TierBytes stored(const PlacementView& layer) const override {
    TierBytes bytes;
    for (int head = 0; head < layer.hot().heads(); ++head) {
      const auto entries = layer.hot().entries(head);
      const Index in_blocks = std::ssize(between(entries, blocks_begin_, begin_of(blocks())));
      Index in_hbm = std::ssize(entries) - in_blocks;
      for (const auto& [block, mark] : cache_.marks()) {
        in_hbm += std::ssize(between(entries, begin_of(block), begin_of(block + 1)));
      }
      bytes[Tier::hbm] += exact_bytes(layer, in_hbm);
      bytes[Tier::host] += exact_bytes(layer, in_blocks);
    }
    bytes[Tier::hbm] += representative_bytes(layer);
    return bytes;
  }

  [[nodiscard]] Needs needs() const override { return {.all_queries = true}; }

 private:
  [[nodiscard]] Index blocks() const { return std::ssize(block_keys_); }
  [[nodiscard]] Index begin_of(Index block) const { return blocks_begin_ + block * block_; }

  static std::vector<std::int32_t> between(std::span<const std::int32_t> entries, Index first, Index last) {
    return {std::lower_bound(entries.begin(), entries.end(), first),
            std::lower_bound(entries.begin(), entries.end(), last)};
  }

  /// Where the budget holds less than everything asked for: an eighth for the first tokens, up to half for the last,
  /// blocks small enough that eight fit, and the rest for the buffer of blocks.
  void fit(Index budget) {
    // A part of a block that is not full yet lies before the local window.
    if (init_ + local_ + block_ - 1 + cache_blocks_ * block_ > budget) {
      block_ = std::min(block_, std::max<Index>(1, budget / 8));
      init_ = std::min(init_, budget / 8);
      local_ = std::min(local_, std::max<Index>(1, budget / 2 - block_));
    }
    const Index left = budget - init_ - local_ - (block_ - 1);
    cache_blocks_ = std::min(cache_blocks_, std::max<Index>(0, left / block_));
    topk_ = std::min(topk_, cache_blocks_);
    representatives_ = std::min(representatives_, block_);
  }

  [[nodiscard]] double representative_bytes(const PlacementView& layer) const {
    const models::Geometry& geometry = layer.hot().geometry();
    return static_cast<double>(blocks() * geometry.num_query_heads * geometry.head_dim * layer.component_bytes());
  }

  /// Blocks of what has left the local window; answers with the bytes that they move to the host.
  double form_blocks(const PlacementView& layer) {
    double bytes = 0;
    while (layer.hot().seen() - begin_of(blocks()) - block_ >= local_) {
      const Index first = begin_of(blocks());
      std::vector<std::vector<double>> keys;
      for (int head = 0; head < layer.hot().geometry().num_query_heads; ++head) {
        keys.push_back(representative(layer, head, first));
      }
      block_keys_.push_back(std::move(keys));
      for (int head = 0; head < layer.hot().heads(); ++head) {
        bytes += exact_bytes(layer, std::ssize(between(layer.hot().entries(head), first, first + block_)));
      }
    }
    return bytes;
  }

  /// The mean key of the block's entries that received most attention from a query head.
  [[nodiscard]] std::vector<double> representative(const PlacementView& layer, int query_head, Index first) const {
    const models::Geometry& geometry = layer.hot().geometry();
    const auto received = std::span(received_[static_cast<std::size_t>(query_head)])
                              .subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(block_));
    std::vector<double> mean(static_cast<std::size_t>(geometry.head_dim), 0.0);
    const models::MatrixView keys = layer.keys(geometry.kv_head_of(query_head));
    std::vector<double> key(mean.size());
    for (const Index place : best_places(received, representatives_)) {
      const Index row = first + place;
      for (std::size_t c = 0; c < key.size(); ++c) key[c] = static_cast<double>(keys(row, static_cast<Index>(c)));
      if (one_distance_)
        layer.hot().rope().invert(std::span(key), layer.hot().positions()[static_cast<std::size_t>(row)]);
      for (std::size_t c = 0; c < key.size(); ++c) mean[c] += key[c] / static_cast<double>(representatives_);
    }
    return mean;
  }

  [[nodiscard]] std::vector<Index> choose(const PlacementView& layer) const {
    std::vector<double> relevance(static_cast<std::size_t>(blocks()), 0.0);
    for (int head = 0; head < layer.hot().geometry().num_query_heads; ++head) {
      const auto recorded = layer.query(head);
      std::vector<double> query(recorded.begin(), recorded.end());
      if (one_distance_) {
        layer.hot().rope().invert(std::span(query), layer.hot().positions().back());
        layer.hot().rope().apply(std::span(query), static_cast<double>(local_));
      }
      for (std::size_t block = 0; block < relevance.size(); ++block) {
        const std::vector<double>& key = block_keys_[block][static_cast<std::size_t>(head)];
        relevance[block] += std::inner_product(query.begin(), query.end(), key.begin(), 0.0);
      }
    }
    return best_places(relevance, topk_);
  }

  /// Adds the attention of this row to what entries outside blocks received, and with `lru_s` to the marks of the
  /// `chosen` blocks.
  void follow_attention(const PlacementView& layer, const AttendedEntries& attended, const std::vector<Index>& chosen) {
    const models::Geometry& geometry = layer.hot().geometry();
    if (by_score_) {
      for (auto& [block, mark] : cache_.marks()) mark *= decay_;
    }
    for (int head = 0; head < geometry.num_query_heads; ++head) {
      const auto place = static_cast<std::size_t>(head);
      std::vector<double>& received = received_[place];
      const auto& rows = attended.rows[place];
      const std::vector<double> weights =
          models::reference_weights(layer.query(head), layer.keys(geometry.kv_head_of(head)), rows,
                                    {.scale = geometry.attention_scale, .softcap = geometry.logit_softcap});
      for (std::size_t i = 0; i < rows.size(); ++i) {
        received[static_cast<std::size_t>(rows[i])] += weights[i];
        if (!by_score_ || rows[i] < blocks_begin_) continue;
        const Index block = (rows[i] - blocks_begin_) / block_;
        if (std::binary_search(chosen.begin(), chosen.end(), block)) cache_.marks()[block] += weights[i];
      }
    }
  }

  Index block_;
  Index init_;
  Index local_;
  Index topk_;
  Index representatives_;
  Index cache_blocks_;
  bool by_score_;
  double decay_;
  bool one_distance_;
  double time_ = 0;
  Index blocks_begin_ = 0;
  PageCache cache_{0};
  std::vector<std::vector<std::vector<double>>> block_keys_;  ///< [block][query head][d]
  std::vector<std::vector<double>> received_;                 ///< [query head][row] attention received
};

const Registration registration(
    {.name = "infllm",
     .sentence = "Keeps the first and last tokens in HBM, blocks of the others on the host, and recalls by block keys.",
     .citation = "InfLLM, arXiv 2402.04617; thunlp/InfLLM",
     .parameters = {integer_parameter("block", "128", 1, 65535, "entries of a block"),
                    integer_parameter("init", "128", 0, 1e9, "first tokens, always attended"),
                    integer_parameter("local", "4096", 1, 1e9, "last tokens, always attended"),
                    integer_parameter("topk", "16", 0, 1e9, "blocks attended per row"),
                    integer_parameter("representatives", "4", 1, 65535, "entries whose mean key stands for a block"),
                    integer_parameter("cache_blocks", "32", 0, 1e9, "blocks that HBM holds"),
                    choice_parameter("replacement", {"lru", "lru_s"},
                                     "which block makes room: least recently attended, or least attention, decaying"),
                    real_parameter("decay", "0.1", 0, 1, "of the attention that lru_s goes by, per row"),
                    choice_parameter("relevance", {"one_distance", "true"},
                                     "positions in the choice of blocks: all at the distance `local`, or their own")},
     .make = MakePlacement([](const Parameters& parameters) { return std::make_unique<InfLlm>(parameters); }),
     .is_policy = true,
     .default_policy = "full()"});

}  // namespace
}  // namespace evictsim::policies
