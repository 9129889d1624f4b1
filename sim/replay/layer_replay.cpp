#include "sim/replay/layer_replay.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>

#include <tbb/parallel_for.h>

#include "sim/replay/class_masses.h"
#include "sim/replay/decode_run.h"
#include "sim/replay/entry_losses.h"
#include "sim/replay/evaluation.h"
#include "sim/replay/future.h"
#include "sim/replay/layer_tasks.h"
#include "sim/replay/lost_sinks.h"
#include "sim/replay/most_attended.h"
#include "sim/replay/oracle.h"
#include "sim/replay/selection.h"
#include "traces/error.h"

namespace evictsim::sim {
namespace {

/// Bytes of output differences held at once: bounds the members of one chain.
constexpr Index difference_bytes = Index{64} << 20;

/// Metrics of several points in one tile that look at the whole future: [member] [B, Hq].
struct HindsightMetrics {
  HindsightMetrics(Index members, Index rows, const models::Geometry& geometry)
      : regret(static_cast<std::size_t>(members), Matrix(rows, geometry.num_query_heads)),
        oracle_gain(regret),
        premature_evictions(regret) {}
  std::vector<Matrix> regret, oracle_gain, premature_evictions;
};

/// What is counted of one point in one tile; as in LayerBlock.
struct BlockCounts {
  std::span<const std::int32_t> resident, evicted;
  std::span<const policies::StepTraffic> traffic = {};
  std::span<const policies::TierBytes> stored = {};
  std::span<const std::vector<std::uint8_t>> resident_rows = {};
  std::int64_t cuts = 0, scored_entries = 0;
};

/// Output errors of the members of one block.
struct BlockErrors {
  std::vector<double> squared;            ///< [members * B]; empty without W_O
  std::vector<std::int32_t> summed_rows;  ///< [S] token rows
  Matrix along;                           ///< [members * S, k]; empty without W_O
  std::vector<double> lost_sinks;         ///< [members * B]
};

/// One layer under all policies. Steps: features and full attention; selection at the prompt; blocks of decode rows.
class LayerReplay {
 public:
  LayerReplay(const SequenceContext& context, const LayerData& layer, std::size_t slot,
              models::OutputProjection* projection, const LayerSink& sink)
      : context_(context),
        layer_(layer),
        slot_(slot),
        projection_(projection),
        sink_(sink),
        kept_counts_(context.plan.points.size()) {}

  void run() {
    const auto rows = layer_.decode_rows();
    const Index block = tile_rows(layer_);
    const bool attended_by_query = context_.needs.decode_attention;
    if (projection_ != nullptr) {
      projection_->expect_rows(static_cast<Index>(rows.size() * context_.plan.points.size()));
    }
    features_ = make_prompt_features(layer_, context_.needs);
    const TokenClasses classes(layer_.sequence(), context_.options.sink_entries);
    if (context_.options.with_entries && !rows.empty()) entry_attention_.emplace(layer_);

    // The oracle, its overlap and the useful sets look at all decode rows, so these are attended before any selection.
    mass_.assign(static_cast<std::size_t>(layer_.geometry().num_query_heads),
                 std::vector<double>(static_cast<std::size_t>(layer_.prompt_length()), 0.0));
    std::optional<Tile> only;
    for (std::size_t first = 0; first < rows.size(); first += static_cast<std::size_t>(block)) {
      check_stop(context_.stop);
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
      split_by_class(layer_, classes, tile);
      sink_.full_block({.layer = slot_,
                        .rows = tile.rows,
                        .dilution = models::view(tile.dilution.data(), tile.size(), tile.dilution.cols()),
                        .entropy = models::view(tile.entropy.data(), tile.size(), tile.entropy.cols()),
                        .class_mass = tile.class_mass});
      const MostAttended most_attended(layer_, tile, context_.options.useful_entries);
      if (entry_attention_) entry_attention_->add(tile, most_attended);
      for (auto& oracle : oracles_) {
        if (oracle) oracle->attend(tile);
      }
      for (Selected& selected : selected_) guard(selected.policy, [&] { evaluate(tile, most_attended, selected); });
    }
    if (entry_attention_) report_entries();
  }

 private:
  /// What a policy keeps in this layer: chains for its rank-once points, runs for those that cut while decoding.
  struct Selected {
    std::size_t policy = 0;
    policies::Granularity granularity = policies::Granularity::kv_head;
    const Oracle* oracle = nullptr;
    std::vector<KeptChain> chains;
    std::vector<std::size_t> run_points;
    std::vector<std::unique_ptr<DecodeRun>> runs;
    std::vector<WalkLosses> losses;  ///< of `runs`, where asked for
  };

  static std::size_t block_size(std::span<const std::int32_t> rows, std::size_t first, Index block) {
    return std::min(static_cast<std::size_t>(block), rows.size() - first);
  }

  /// A policy that fails is reported and left out; the others go on.
  template <typename Step>
  void guard(std::size_t policy, const Step& step) {
    check_stop(context_.stop);
    if (std::find(failed_.begin(), failed_.end(), policy) != failed_.end()) return;
    run_step(step, [&](const char* why) {
      failed_.push_back(policy);
      sink_.failed(policy, why);
    });
  }

  void select(const ActivePolicy& active) {
    const policies::Policy& policy = context_.plan.policies[active.index];
    const LayerCache prompt(layer_, features_, policy.granularity, context_.random);
    Oracle& oracle = oracle_of(prompt, policy.granularity);
    Selected selected{.policy = active.index, .granularity = policy.granularity, .oracle = &oracle};
    std::vector<KeptSets> sets;
    std::optional<policies::LayerScores> scores;
    std::optional<CutScorer> scorer;
    if (!policy.never_cuts()) scorer.emplace(policy, future_);
    RunPlan own;  // where the layer decides for itself; measured when a cut first asks for it
    bool measured = false;
    for (const std::size_t point : active.points) {
      const policies::Budget& budget = context_.plan.points[point].budget;
      const bool leave = stays_whole(policy, budget, layer_);
      const auto pooled = context_.plans.find(point);
      if (!leave && pooled == context_.plans.end() && !std::exchange(measured, true)) {
        own.measured = policy.allocator->measure(prompt);
      }
      const RunPlan& plan = pooled == context_.plans.end() ? own : pooled->second[slot_];
      if (!leave && (cuts_while_decoding(policy) || policy.places())) {
        auto run = std::make_unique<DecodeRun>(policy, budget, layer_, features_, context_.random, future_, plan);
        run->begin();
        report_cut(point, oracle, run->scored_entries(), run->prompt_kept(), run->prompt_scores(), run->stored());
        selected.run_points.push_back(point);
        selected.runs.push_back(std::move(run));
        if (entry_attention_) selected.losses.emplace_back(layer_);
        continue;
      }
      const policies::CutBudget cut_to = cut_budget(budget, prompt);
      std::vector<std::vector<std::int32_t>> kept = everything(prompt);
      const bool due = !leave && policy.schedule->due(schedule_state(prompt, budget));
      if (due && (!scores || scorer->depends_on_budget())) scores = scorer->score(prompt, cut_to);
      const bool cuts = due && (cut_to.entries < prompt.longest() || policy.allocator->ignores_budget() || plan.cuts);
      if (cuts) {
        kept = choose(policy, prompt, *scores, cut_to,
                      {.measured = plan.measured, .planned = plan.cuts ? &plan.cuts->front().counts : nullptr});
      }
      report_cut(point, oracle, cuts ? prompt.heads() * layer_.prompt_length() : 0, kept,
                 due && context_.options.with_scores ? scores_for_dump(*scores) : std::vector<std::vector<float>>{},
                 std::nullopt);
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

  /// Made with the first policy of each granularity.
  Oracle& oracle_of(const LayerCache& prompt, policies::Granularity granularity) {
    std::optional<Oracle>& oracle = oracles_[static_cast<std::size_t>(granularity == policies::Granularity::kv_head)];
    if (!oracle) {
      std::vector<CacheHead> heads;
      for (int head = 0; head < prompt.heads(); ++head) heads.push_back(prompt.cache_head(head));
      oracle.emplace(layer_, std::move(heads), mass_, everything(prompt).front());
    }
    return *oracle;
  }

  void report_cut(std::size_t point, Oracle& oracle, std::int64_t scored_entries,
                  const std::vector<std::vector<std::int32_t>>& kept, std::vector<std::vector<float>> scores,
                  const std::optional<policies::TierBytes>& stored) {
    PromptCut cut{.point = point,
                  .layer = slot_,
                  .cache_heads = static_cast<int>(kept.size()),
                  .kept = kept,
                  .scored_entries = scored_entries};
    cut.stored = stored;
    if (context_.options.with_scores) cut.scores = std::move(scores);
    if (!layer_.decode_rows().empty()) {
      std::vector<std::size_t>& counts = kept_counts_[point];
      for (std::size_t head = 0; head < kept.size(); ++head) {
        cut.oracle_overlap.push_back(oracle.overlap(head, kept[head]));
        counts.push_back(kept[head].size());
        oracle.expect(head, counts.back());
      }
    }
    sink_.prompt_cut(std::move(cut));
  }

  void evaluate(const Tile& tile, const MostAttended& most_attended, Selected& selected) {
    const LayerCache heads(layer_, features_, selected.granularity, context_.random);
    for (const KeptChain& chain : selected.chains) {
      const auto members = static_cast<Index>(chain.points.size());
      BlockMetrics metrics(members, tile.size(), layer_.geometry());
      HindsightMetrics hindsight(members, tile.size(), layer_.geometry());
      LostSinks sinks(layer_, tile, members);
      tbb::parallel_for(0, heads.heads(), [&](int head) {
        const auto place = static_cast<std::size_t>(head);
        evaluate_chain(layer_, tile, chain, place, heads.cache_head(head), metrics);
        sinks.evicted_from_chain(chain.level[place], heads.cache_head(head));
        most_attended.evicted_from_chain(chain.level[place], heads.cache_head(head), hindsight.premature_evictions);
        for (std::size_t member = 0; member < chain.points.size(); ++member) {
          selected.oracle->compare(place, kept_counts_[chain.points[member]][place], metrics.retained_mass[member],
                                   hindsight.regret[member], hindsight.oracle_gain[member]);
        }
      });
      const BlockErrors errors = errors_of(tile, metrics, sinks);
      for (Index member = 0; member < members; ++member) {
        const std::vector<std::int32_t> resident = attended_counts(layer_, tile, chain, member);
        const std::vector<std::int32_t> evicted(resident.size(), 0);
        report_block(tile, chain.points[static_cast<std::size_t>(member)], metrics, hindsight, member, errors,
                     {.resident = resident, .evicted = evicted});
      }
    }
    const auto together = static_cast<std::size_t>(most_members());
    for (std::size_t first = 0; first < selected.runs.size(); first += together) {
      const std::size_t members = std::min(together, selected.runs.size() - first);
      BlockMetrics metrics(static_cast<Index>(members), tile.size(), layer_.geometry());
      HindsightMetrics hindsight(static_cast<Index>(members), tile.size(), layer_.geometry());
      LostSinks sinks(layer_, tile, static_cast<Index>(members));
      std::vector<BlockCounts> counts(members);
      for (std::size_t member = 0; member < members; ++member) {
        check_stop(context_.stop);
        DecodeRun& run = *selected.runs[first + member];
        const std::int64_t cuts = run.cuts();
        const std::int64_t scored_entries = run.scored_entries();
        const auto each_head = [&](const auto& task) { tbb::parallel_for(0, heads.heads(), task); };
        const DecodeRun::PlacedHook placed = [&](Index r, const PlacedRow& row) {
          each_head([&](int head) {
            const CacheHead cache_head = heads.cache_head(head);
            evaluate_placed(layer_, tile, r, row, static_cast<std::size_t>(head), cache_head,
                            static_cast<Index>(member), metrics);
            for (int h = cache_head.first_query_head; h < cache_head.first_query_head + cache_head.query_heads; ++h) {
              const std::vector<std::int32_t>& attended = row.attended.rows[static_cast<std::size_t>(h)];
              hindsight.premature_evictions[member](r, h) = most_attended.missing(h, r, attended);
              sinks.missing(static_cast<Index>(member), r, h, attended);
            }
          });
          if (!entry_attention_) return;
          for (int h = 0; h < layer_.geometry().num_query_heads; ++h) {
            selected.losses[first + member].add(tile, most_attended, h, r,
                                                row.attended.rows[static_cast<std::size_t>(h)]);
          }
        };
        run.advance(tile, {.resident = context_.options.with_resident, .stored = context_.options.with_stored}, placed);
        counts[member] = {.resident = run.resident(),
                          .evicted = run.evicted(),
                          .traffic = run.traffic(),
                          .stored = run.stored_rows(),
                          .resident_rows = run.resident_rows(),
                          .cuts = run.cuts() - cuts,
                          .scored_entries = run.scored_entries() - scored_entries};
        each_head([&](int head) {
          const auto place = static_cast<std::size_t>(head);
          const CacheHead cache_head = heads.cache_head(head);
          const std::span<const std::int32_t> last_row = run.cache().last_row(head);
          if (!run.places()) {
            most_attended.evicted_by_row(tile, last_row, cache_head, hindsight.premature_evictions[member]);
            sinks.evicted_by_row(static_cast<Index>(member), last_row, cache_head);
          }
          selected.oracle->compare(tile, place, run.prompt_kept()[place], hindsight.regret[member],
                                   hindsight.oracle_gain[member]);
        });
        if (!entry_attention_ || run.places()) continue;
        for (int head = 0; head < heads.heads(); ++head) {
          selected.losses[first + member].add(tile, most_attended, heads.cache_head(head), run.cache().last_row(head));
        }
      }
      // One query head for all members before the next: what it attends to stays in the processor's cache.
      tbb::parallel_for(0, layer_.geometry().num_query_heads, [&](int query_head) {
        const CacheHead head{layer_.geometry().kv_head_of(query_head), query_head, 1};
        for (std::size_t member = 0; member < members; ++member) {
          const DecodeRun& run = *selected.runs[first + member];
          if (run.places()) continue;
          const LayerCache& cache = run.cache();
          evaluate_resident(layer_, tile, cache.last_row(cache.head_of(query_head)), head, static_cast<Index>(member),
                            metrics);
        }
      });
      const BlockErrors errors = errors_of(tile, metrics, sinks);
      for (std::size_t member = 0; member < members; ++member) {
        report_block(tile, selected.run_points[first + member], metrics, hindsight, static_cast<Index>(member), errors,
                     counts[member]);
      }
    }
  }

  /// One product for all members: the factor is packed once.
  [[nodiscard]] BlockErrors errors_of(const Tile& tile, const BlockMetrics& metrics, const LostSinks& sinks) const {
    BlockErrors errors{.squared = {}, .summed_rows = {}, .along = {}, .lost_sinks = sinks.means()};
    if (projection_ == nullptr) return errors;
    errors.squared.resize(static_cast<std::size_t>(metrics.difference.rows()));
    projection_->error_squared(tile.output, metrics.difference, errors.squared);

    std::set_intersection(tile.rows.begin(), tile.rows.end(), context_.summed_rows.begin(), context_.summed_rows.end(),
                          std::back_inserter(errors.summed_rows));
    const Index rows = std::ssize(errors.summed_rows);
    if (rows == 0) return errors;
    if (rows == tile.size()) {
      errors.along = projection_->error_along(tile.output, metrics.difference);
      return errors;
    }
    const Index members = metrics.difference.rows() / tile.size();
    Matrix full(rows, tile.output.cols());
    Matrix difference(members * rows, tile.output.cols());
    for (Index r = 0; r < rows; ++r) {
      const auto found =
          std::lower_bound(tile.rows.begin(), tile.rows.end(), errors.summed_rows[static_cast<std::size_t>(r)]);
      const Index place = found - tile.rows.begin();
      full.row(r) = tile.output.row(place);
      for (Index member = 0; member < members; ++member) {
        difference.row(member * rows + r) = metrics.difference.row(member * tile.size() + place);
      }
    }
    errors.along = projection_->error_along(full, difference);
    return errors;
  }

  /// Points whose output differences fit into memory at once.
  [[nodiscard]] Index most_members() const {
    const Index bytes = std::max<Index>(1, std::min<Index>(tile_rows(layer_), std::ssize(layer_.decode_rows()))) *
                        layer_.geometry().num_query_heads * layer_.geometry().head_dim *
                        static_cast<Index>(sizeof(float));
    return std::clamp<Index>(difference_bytes / bytes, 1, 64);
  }

  /// After the last block: what became of every entry, with the full cache and under each point.
  void report_entries() {
    entry_attention_->finish();
    sink_.full_entries({.layer = slot_,
                        .attention = entry_attention_->attention(),
                        .attended_most = entry_attention_->attended_most()});
    const auto report = [&](std::size_t point, const LostEntries& lost) {
      sink_.entry_losses(
          {.point = point, .layer = slot_, .lost_mass = lost.mass, .premature_evictions = lost.premature_evictions});
    };
    for (const Selected& selected : selected_) {
      guard(selected.policy, [&] {
        for (const KeptChain& chain : selected.chains) {
          for (std::size_t member = 0; member < chain.points.size(); ++member) {
            report(chain.points[member], lost_by(chain, member, selected.oracle->heads(), *entry_attention_));
          }
        }
        for (std::size_t run = 0; run < selected.runs.size(); ++run) {
          report(selected.run_points[run], selected.losses[run].means());
        }
      });
    }
  }

  void report_block(const Tile& tile, std::size_t point, const BlockMetrics& metrics, const HindsightMetrics& hindsight,
                    Index member, const BlockErrors& errors, const BlockCounts& counts) const {
    const auto at = static_cast<std::size_t>(member);
    const std::span<const double> error_squared = errors.squared;
    const auto whole = [&](const Matrix& matrix) { return models::view(matrix.data(), matrix.rows(), matrix.cols()); };
    LayerBlock block{.point = point,
                     .layer = slot_,
                     .rows = tile.rows,
                     .retained_mass = whole(metrics.retained_mass[at]),
                     .output_error = whole(metrics.output_error[at]),
                     .dilution = whole(metrics.dilution[at]),
                     .entropy = whole(metrics.entropy[at]),
                     .class_mass = metrics.class_mass[at],
                     .regret = whole(hindsight.regret[at]),
                     .oracle_gain = whole(hindsight.oracle_gain[at]),
                     .premature_evictions = whole(hindsight.premature_evictions[at]),
                     .lost_sink_mass = std::span(errors.lost_sinks).subspan(at * tile.rows.size(), tile.rows.size()),
                     .summed_error = {},
                     .error_squared = {},
                     .output_squared = {},
                     .resident = counts.resident,
                     .evicted = counts.evicted,
                     .cuts = counts.cuts,
                     .scored_entries = counts.scored_entries,
                     .traffic = counts.traffic,
                     .stored = counts.stored,
                     .resident_rows = counts.resident_rows};
    if (!error_squared.empty()) {
      block.error_squared = error_squared.subspan(at * tile.rows.size(), tile.rows.size());
      block.output_squared = tile.output_squared;
      const std::size_t values = errors.summed_rows.size() * static_cast<std::size_t>(errors.along.cols());
      block.summed_error = {.rows = errors.summed_rows, .values = {errors.along.data() + at * values, values}};
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
  Future future_{layer_, mass_};
  std::optional<EntryAttention> entry_attention_;      ///< where asked for
  std::array<std::optional<Oracle>, 2> oracles_;       ///< by granularity
  std::vector<std::vector<std::size_t>> kept_counts_;  ///< [point][cache head] prompt entries after the prompt's cut
  std::vector<Selected> selected_;
  std::vector<std::size_t> failed_;
};

}  // namespace

void replay_layer(const SequenceContext& context, const LayerData& layer, std::size_t slot,
                  models::OutputProjection* projection, const LayerSink& sink) {
  LayerReplay(context, layer, slot, projection, sink).run();
}

}  // namespace evictsim::sim
