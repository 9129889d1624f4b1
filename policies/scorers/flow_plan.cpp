#include <lemon/network_simplex.h>
#include <lemon/static_graph.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>
#include <vector>

#include "policies/future_attention.h"
#include "policies/registry.h"
#include "traces/error.h"

namespace evictsim::policies {
namespace {

using Amount = std::int64_t;

/// What a token earns while it stays: the attention of each stretch of rows between two cuts.
struct Chain {
  Index first = 0;            ///< the first cut that it can survive
  std::vector<Amount> gains;  ///< of the stretches from `first` on
};

/// How many stretches each chain stays, with at most `capacity` chains in every stretch, so that the gains sum up to
/// the most: a flow of least cost from the first cut to the last. A unit of flow is a place in the cache; it waits at
/// the cut's node until it enters a chain, which it may leave at every cut and not enter again.
std::vector<Index> best_stays(const std::vector<Chain>& chains, Index stretches, Index capacity) {
  struct Arc {
    int from, to;
    Amount room, cost;
  };
  std::vector<Arc> arcs;
  std::vector<std::vector<std::size_t>> stays(chains.size());  ///< [chain] its arcs, one per stretch
  for (Index cut = 0; cut < stretches; ++cut) {
    arcs.push_back({static_cast<int>(cut), static_cast<int>(cut + 1), capacity, 0});
  }
  int nodes = static_cast<int>(stretches) + 1;
  for (std::size_t i = 0; i < chains.size(); ++i) {
    int from = static_cast<int>(chains[i].first);
    for (std::size_t s = 0; s < chains[i].gains.size(); ++s) {
      const int to = nodes++;
      stays[i].push_back(arcs.size());
      arcs.push_back({from, to, 1, -chains[i].gains[s]});
      arcs.push_back({to, static_cast<int>(chains[i].first) + static_cast<int>(s) + 1, 1, 0});
      from = to;
    }
  }
  std::vector<std::size_t> order(arcs.size());  // the graph wants its arcs sorted by source
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return arcs[a].from < arcs[b].from; });
  std::vector<std::pair<int, int>> ends;
  for (const std::size_t arc : order) ends.emplace_back(arcs[arc].from, arcs[arc].to);
  lemon::StaticDigraph graph;
  graph.build(nodes, ends.begin(), ends.end());
  lemon::StaticDigraph::ArcMap<Amount> room(graph);
  lemon::StaticDigraph::ArcMap<Amount> cost(graph);
  std::vector<lemon::StaticDigraph::Arc> built(arcs.size());
  for (std::size_t place = 0; place < order.size(); ++place) {
    built[order[place]] = lemon::StaticDigraph::arc(static_cast<int>(place));
    room[built[order[place]]] = arcs[order[place]].room;
    cost[built[order[place]]] = arcs[order[place]].cost;
  }
  lemon::NetworkSimplex<lemon::StaticDigraph, Amount, Amount> simplex(graph);
  simplex.upperMap(room).costMap(cost).stSupply(lemon::StaticDigraph::node(0),
                                                lemon::StaticDigraph::node(static_cast<int>(stretches)), capacity);
  using Solver = lemon::NetworkSimplex<lemon::StaticDigraph, Amount, Amount>;
  if (simplex.run() != Solver::OPTIMAL) {
    throw Error(ErrorCode::policy_failure, "the flow problem has no optimum", {.parameter = "flow_plan"});
  }
  std::vector<Index> lengths(chains.size(), 0);
  for (std::size_t i = 0; i < chains.size(); ++i) {
    for (const std::size_t arc : stays[i]) lengths[i] += simplex.flow(built[arc]) > 0 ? 1 : 0;
  }
  return lengths;
}

/// The offline optimum of retained attention under permanent eviction, per cache head, for cuts after the prompt and
/// after every `steps` decode rows.
class FlowPlan : public OracleScorer {
 public:
  explicit FlowPlan(const Parameters& parameters) : steps_(parameters.integer("steps")) {}

  void score(const CacheView& cache, const CutBudget& budget, const FutureView& future, LayerScores& scores) override {
    const Index cut = (cache.seen() - cache.prompt_length()) / steps_;
    for (int head = 0; head < cache.heads(); ++head) {
      const auto entries = cache.entries(head);
      const std::vector<Index>& last_cut = plan(cache, budget, future, head);
      for (std::size_t i = 0; i < entries.size(); ++i) {
        const Index last = last_cut[static_cast<std::size_t>(entries[i])];
        // Ahead of those that leave, the ones that stay longest: a cut that the plan did not foresee takes these.
        scores.of(head)[i] = static_cast<float>(last - cut);
      }
    }
  }

  [[nodiscard]] bool depends_on_budget() const override { return true; }
  [[nodiscard]] bool ranks_decoded() const override { return true; }
  [[nodiscard]] bool is_optimum() const override { return true; }
  [[nodiscard]] Needs needs() const override { return {.decode_attention = true}; }

 private:
  /// [token row] the last cut that the row survives, -1 for none; for one budget and head.
  const std::vector<Index>& plan(const CacheView& cache, const CutBudget& budget, const FutureView& future, int head) {
    const auto found = plans_.find({head, budget.entries});
    if (found != plans_.end()) return found->second;
    const FutureAttention attention = future_attention(cache, future, head);
    const Index prompt = cache.prompt_length();
    const Index stretches = (future.length() - prompt + steps_ - 1) / steps_;
    std::vector<Chain> chains(static_cast<std::size_t>(future.length()));
    for (Index row = 0; row < future.length(); ++row) {
      Chain& chain = chains[static_cast<std::size_t>(row)];
      chain.first = row < prompt ? 0 : (row - prompt) / steps_ + 1;
      chain.gains.assign(static_cast<std::size_t>(std::max<Index>(0, stretches - chain.first)), 0);
    }
    for (std::size_t r = 0; r < attention.rows.size(); ++r) {
      const Index stretch = (attention.rows[r] - prompt) / steps_;
      for (Index row = 0; row <= attention.rows[r]; ++row) {
        Chain& chain = chains[static_cast<std::size_t>(row)];
        if (stretch < chain.first) continue;
        double mass = 0;
        for (const models::MatrixDouble& weights : attention.by_query) mass += weights(static_cast<Index>(r), row);
        chain.gains[static_cast<std::size_t>(stretch - chain.first)] += std::llround(mass * units_per_mass);
      }
    }
    const std::vector<Index> stays = best_stays(chains, stretches, static_cast<Index>(budget.entries));
    std::vector<Index> last(chains.size());
    for (std::size_t row = 0; row < chains.size(); ++row) last[row] = chains[row].first + stays[row] - 1;
    return plans_.emplace(std::pair(head, budget.entries), std::move(last)).first->second;
  }

  static constexpr double units_per_mass = 1e9;
  Index steps_;
  std::map<std::pair<int, std::int64_t>, std::vector<Index>> plans_;
};

const Registration registration(
    {.name = "flow_plan",
     .sentence = "Keeps, at every cut, what the plan of least lost attention keeps; sees the future.",
     .citation = "min-cost flow over places in the cache, LEMON's network simplex; a reference of this project",
     .parameters = {integer_parameter("steps", "1", 1, 1e9, "decode rows between two cuts")},
     .make = MakeOracle([](const Parameters& parameters) { return std::make_unique<FlowPlan>(parameters); }),
     .default_schedule = "every()"});

}  // namespace
}  // namespace evictsim::policies
