#include "sim/replay/layer_replay.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <optional>

#include <tbb/parallel_for.h>

#include "sim/replay/decode_run.h"
#include "sim/replay/evaluation.h"
#include "sim/replay/selection.h"
#include "traces/error.h"

namespace evictsim::sim {
namespace {

/// Bytes of output differences held at once: bounds the members of one chain.
constexpr Index difference_bytes = Index{64} << 20;

using FutureMass = std::vector<std::vector<double>>;  ///< [Hq][prompt_length]

class Future final : public policies::FutureView {
 public:
  explicit Future(const FutureMass& mass) : mass_(mass) {}
  [[nodiscard]] std::span<const double> future_mass(int query_head) const override {
    return mass_[static_cast<std::size_t>(query_head)];
  }

 private:
  const FutureMass& mass_;
};

/// Share of the kept rows that an oracle of the same size keeps too: the rows with the largest future mass.
double oracle_overlap(const FutureMass& mass, const CacheHead& head, const std::vector<std::int32_t>& kept) {
  if (kept.empty()) return 1.0;
  std::vector<double> future(mass[0].size(), 0.0);
  for (int h = head.first_query_head; h < head.first_query_head + head.query_heads; ++h) {
    for (std::size_t j = 0; j < future.size(); ++j) future[j] += mass[static_cast<std::size_t>(h)][j];
  }
  std::vector<std::int32_t> order(future.size());
  std::iota(order.begin(), order.end(), 0);
  const auto better = [&](std::int32_t a, std::int32_t b) {
    const double x = future[static_cast<std::size_t>(a)];
    const double y = future[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  };
  std::nth_element(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(kept.size() - 1), order.end(), better);
  std::vector<std::uint8_t> best(future.size(), 0);
  for (std::size_t i = 0; i < kept.size(); ++i) best[static_cast<std::size_t>(order[i])] = 1;
  const auto common =
      std::count_if(kept.begin(), kept.end(), [&](std::int32_t j) { return best[static_cast<std::size_t>(j)]; });
  return static_cast<double>(common) / static_cast<double>(kept.size());
}

/// One layer under all policies. Steps: features and full attention; selection at the prompt; blocks of decode rows.
class LayerReplay {
 public:
  LayerReplay(const SequenceContext& context, const LayerData& layer, std::size_t slot,
              models::OutputProjection* projection, const LayerSink& sink)
      : context_(context), layer_(layer), slot_(slot), projection_(projection), sink_(sink) {}

  void run() {
    const auto rows = layer_.decode_rows();
    const Index block = tile_rows(layer_);
    const bool attended_by_query = context_.needs.decode_attention;
    if (projection_ != nullptr) {
      projection_->expect_rows(static_cast<Index>(rows.size() * context_.plan.points.size()));
    }
    features_ = make_prompt_features(layer_, context_.needs);

    // The oracle, its overlap and the useful sets look at all decode rows, so these are attended before any selection.
    mass_.assign(static_cast<std::size_t>(layer_.geometry().num_query_heads),
                 std::vector<double>(static_cast<std::size_t>(layer_.prompt_length()), 0.0));
    std::optional<Tile> only;
    for (std::size_t first = 0; first < rows.size(); first += static_cast<std::size_t>(block)) {
      check_stop();
      Tile tile =
          make_tile(layer_, rows.subspan(first, block_size(rows, first, block)), attended_by_query, projection_);
      add_future_mass(layer_, tile, mass_);
      if (static_cast<Index>(rows.size()) <= block) only = std::move(tile);
    }

    for (const ActivePolicy& policy : context_.policies) guard(policy.index, [&] { select(policy); });

    for (std::size_t first = 0; first < rows.size(); first += static_cast<std::size_t>(block)) {
      Tile tile =
          only ? std::move(*only)
               : make_tile(layer_, rows.subspan(first, block_size(rows, first, block)), attended_by_query, projection_);
      find_useful_sets(layer_, mass_, static_cast<Index>(rows.size()), context_.options.useful_entries, tile);
      sink_.full_block({.layer = slot_,
                        .rows = tile.rows,
                        .dilution = models::view(tile.dilution.data(), tile.size(), tile.dilution.cols()),
                        .entropy = models::view(tile.entropy.data(), tile.size(), tile.entropy.cols())});
      for (Selected& selected : selected_) guard(selected.policy, [&] { evaluate(tile, selected); });
    }
  }

 private:
  /// What a policy keeps in this layer: chains for its rank-once points, runs for those that cut while decoding.
  struct Selected {
    std::size_t policy = 0;
    policies::Granularity granularity = policies::Granularity::kv_head;
    std::vector<KeptChain> chains;
    std::vector<std::size_t> run_points;
    std::vector<std::unique_ptr<DecodeRun>> runs;
  };

  static std::size_t block_size(std::span<const std::int32_t> rows, std::size_t first, Index block) {
    return std::min(static_cast<std::size_t>(block), rows.size() - first);
  }

  void check_stop() const {
    if (context_.stop) throw Error(ErrorCode::interrupted, "stopped on request; finished rows are kept");
  }

  /// A policy that fails is reported and left out; the others go on.
  template <typename Step>
  void guard(std::size_t policy, const Step& step) {
    check_stop();
    if (std::find(failed_.begin(), failed_.end(), policy) != failed_.end()) return;
    try {
      step();
    } catch (const Error& error) {
      if (error.code() == ErrorCode::interrupted) throw;
      failed_.push_back(policy);
      sink_.failed(policy, error.what());
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception& error) {
      failed_.push_back(policy);
      sink_.failed(policy, error.what());
    }
  }

  void select(const ActivePolicy& active) {
    const policies::Policy& policy = context_.plan.policies[active.index];
    Selected selected{.policy = active.index, .granularity = policy.granularity};
    const LayerCache prompt(layer_, features_, policy.granularity, context_.random);
    std::vector<KeptSets> sets;
    std::optional<policies::LayerScores> scores;
    std::unique_ptr<policies::Scorer> scorer = policy.make_scorer ? policy.make_scorer() : nullptr;
    const bool walks = cuts_while_decoding(policy);
    for (const std::size_t point : active.points) {
      const policies::Budget& budget = context_.plan.points[point].budget;
      const policies::CutBudget cut_to = cut_budget(budget, prompt);
      // Layers with a sliding window are left alone, as engines do; they hold what their window sees.
      const bool leave = policy.never_cuts() || budget.unlimited() || layer_.sliding_window() > 0;
      if (walks && !leave) {
        auto run = std::make_unique<DecodeRun>(policy, budget, layer_, features_, context_.random);
        report_cut(point, run->cache(), run->prompt_kept(), run->prompt_scores());
        selected.run_points.push_back(point);
        selected.runs.push_back(std::move(run));
        continue;
      }
      std::vector<std::vector<std::int32_t>> kept = everything(prompt);
      const bool due =
          !leave &&
          policy.schedule->due(
              {.decoded = 0, .row = prompt.seen() - 1, .resident = prompt.longest(), .entries = cut_to.entries});
      if (due && (!scores || (scorer && scorer->depends_on_budget()))) {
        scores = policy.is_oracle() ? score_cache(policy, *policy.make_oracle(), prompt, Future(mass_))
                                    : score_cache(policy, *scorer, prompt, cut_to);
      }
      if (due && cut_to.entries < prompt.longest()) kept = choose(policy, prompt, *scores, cut_to);
      report_cut(point, prompt, kept,
                 due && context_.options.with_scores ? scores_for_dump(*scores) : std::vector<std::vector<float>>{});
      sets.push_back({.point = point, .kept = std::move(kept)});
    }
    selected.chains = build_chains(std::move(sets), layer_.prompt_length(), static_cast<std::size_t>(most_members()));
    selected_.push_back(std::move(selected));
  }

  /// The whole prompt; in a sliding-window layer what the window of the last prompt row sees.
  [[nodiscard]] std::vector<std::vector<std::int32_t>> everything(const LayerCache& prompt) const {
    const models::EntryRange range =
        models::visible_entries(layer_.positions(), layer_.prompt_length() - 1, layer_.sliding_window());
    std::vector<std::int32_t> rows(static_cast<std::size_t>(range.last - range.first));
    std::iota(rows.begin(), rows.end(), static_cast<std::int32_t>(range.first));
    return {static_cast<std::size_t>(prompt.heads()), rows};
  }

  void report_cut(std::size_t point, const LayerCache& cache, const std::vector<std::vector<std::int32_t>>& kept,
                  std::vector<std::vector<float>> scores) const {
    PromptCut cut{.point = point, .layer = slot_, .cache_heads = cache.heads(), .kept = kept};
    if (context_.options.with_scores) cut.scores = std::move(scores);
    if (!layer_.decode_rows().empty()) {
      for (int head = 0; head < cache.heads(); ++head) {
        cut.oracle_overlap.push_back(
            oracle_overlap(mass_, cache.cache_head(head), kept[static_cast<std::size_t>(head)]));
      }
    }
    sink_.prompt_cut(std::move(cut));
  }

  void evaluate(const Tile& tile, Selected& selected) {
    const LayerCache heads(layer_, features_, selected.granularity, context_.random);
    for (const KeptChain& chain : selected.chains) {
      const auto members = static_cast<Index>(chain.points.size());
      BlockMetrics metrics(members, tile.size(), layer_.geometry());
      tbb::parallel_for(0, heads.heads(), [&](int head) {
        evaluate_chain(layer_, tile, chain, static_cast<std::size_t>(head), heads.cache_head(head), metrics);
      });
      const std::vector<double> error_squared = errors_behind_w_o(tile, metrics);
      for (Index member = 0; member < members; ++member) {
        const std::vector<std::int32_t> resident = resident_counts(tile, chain, member);
        const std::vector<std::int32_t> evicted(resident.size(), 0);
        report_block(tile, chain.points[static_cast<std::size_t>(member)], metrics, member, error_squared, resident,
                     evicted, {});
      }
    }
    const auto together = static_cast<std::size_t>(most_members());
    for (std::size_t first = 0; first < selected.runs.size(); first += together) {
      const std::size_t members = std::min(together, selected.runs.size() - first);
      BlockMetrics metrics(static_cast<Index>(members), tile.size(), layer_.geometry());
      for (std::size_t member = 0; member < members; ++member) {
        check_stop();
        DecodeRun& run = *selected.runs[first + member];
        run.advance(tile, context_.options.with_resident);
        tbb::parallel_for(0, heads.heads(), [&](int head) {
          evaluate_resident(layer_, tile, run.cache().last_row(head), heads.cache_head(head),
                            static_cast<Index>(member), metrics);
        });
      }
      const std::vector<double> error_squared = errors_behind_w_o(tile, metrics);
      for (std::size_t member = 0; member < members; ++member) {
        const DecodeRun& run = *selected.runs[first + member];
        report_block(tile, selected.run_points[first + member], metrics, static_cast<Index>(member), error_squared,
                     run.resident(), run.evicted(), run.resident_rows());
      }
    }
  }

  /// [members * B], or empty without W_O. One product for all members: the factor is packed once.
  [[nodiscard]] std::vector<double> errors_behind_w_o(const Tile& tile, const BlockMetrics& metrics) const {
    if (projection_ == nullptr) return {};
    std::vector<double> error_squared(static_cast<std::size_t>(metrics.difference.rows()));
    projection_->error_squared(tile.output, metrics.difference, error_squared);
    return error_squared;
  }

  /// Points whose output differences fit into memory at once.
  [[nodiscard]] Index most_members() const {
    const Index bytes = std::max<Index>(1, std::min<Index>(tile_rows(layer_), std::ssize(layer_.decode_rows()))) *
                        layer_.geometry().num_query_heads * layer_.geometry().head_dim *
                        static_cast<Index>(sizeof(float));
    return std::clamp<Index>(difference_bytes / bytes, 1, 64);
  }

  /// Entries that each row of the tile attends under a member of a chain, [B * cache heads]: kept prompt rows inside
  /// the row's window and every row decoded so far.
  [[nodiscard]] std::vector<std::int32_t> resident_counts(const Tile& tile, const KeptChain& chain,
                                                          Index member) const {
    const auto prompt = static_cast<std::ptrdiff_t>(layer_.prompt_length());
    std::vector<std::int32_t> counts(tile.rows.size() * chain.level.size());
    for (std::size_t head = 0; head < chain.level.size(); ++head) {
      const auto& level = chain.level[head];
      std::ptrdiff_t first = -1;
      std::ptrdiff_t kept = 0;
      for (std::size_t r = 0; r < tile.rows.size(); ++r) {
        const models::EntryRange seen =
            models::visible_entries(layer_.positions(), tile.rows[r], layer_.sliding_window());
        if (first != std::min<std::ptrdiff_t>(seen.first, prompt)) {
          first = std::min<std::ptrdiff_t>(seen.first, prompt);
          kept = std::count_if(level.begin() + first, level.end(), [&](std::uint16_t l) { return l <= member; });
        }
        counts[r * chain.level.size() + head] =
            static_cast<std::int32_t>(kept + seen.last - std::max<std::ptrdiff_t>(seen.first, prompt));
      }
    }
    return counts;
  }

  void report_block(const Tile& tile, std::size_t point, const BlockMetrics& metrics, Index member,
                    std::span<const double> error_squared, std::span<const std::int32_t> resident,
                    std::span<const std::int32_t> evicted,
                    std::span<const std::vector<std::uint8_t>> resident_rows) const {
    const auto at = static_cast<std::size_t>(member);
    const auto whole = [&](const Matrix& matrix) { return models::view(matrix.data(), matrix.rows(), matrix.cols()); };
    LayerBlock block{.point = point,
                     .layer = slot_,
                     .rows = tile.rows,
                     .retained_mass = whole(metrics.retained_mass[at]),
                     .output_error = whole(metrics.output_error[at]),
                     .dilution = whole(metrics.dilution[at]),
                     .entropy = whole(metrics.entropy[at]),
                     .error_squared = {},
                     .output_squared = {},
                     .resident = resident,
                     .evicted = evicted,
                     .resident_rows = resident_rows};
    if (!error_squared.empty()) {
      block.error_squared = error_squared.subspan(at * tile.rows.size(), tile.rows.size());
      block.output_squared = tile.output_squared;
    }
    sink_.layer_block(block);
  }

  const SequenceContext& context_;
  const LayerData& layer_;
  std::size_t slot_;
  models::OutputProjection* projection_;
  const LayerSink& sink_;
  PromptFeatures features_;
  FutureMass mass_;
  std::vector<Selected> selected_;
  std::vector<std::size_t> failed_;
};

}  // namespace

void replay_layer(const SequenceContext& context, const LayerData& layer, std::size_t slot,
                  models::OutputProjection* projection, const LayerSink& sink) {
  LayerReplay(context, layer, slot, projection, sink).run();
}

}  // namespace evictsim::sim
