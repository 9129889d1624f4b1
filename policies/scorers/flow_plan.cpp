#include <lemon/network_simplex.h>
#include <lemon/static_graph.h>

#include <algorithm>
#include <cmath>
#include <functional>
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

/// What a token loses by leaving at a cut: all attention that it receives from then on.
struct Token {
  Index first = 0;             ///< the first cut at which it can leave
  std::vector<Amount> losses;  ///< of leaving at cuts `first`, `first` + 1, ...
};

/// Into the parts of a network that LEMON solves: nodes are added by number, arcs in any order.
class Network {
 public:
  void add(Index from, Index to, Amount cost) { arcs_.push_back({static_cast<int>(from), static_cast<int>(to), cost}); }

  /// Sends `supply[node]` from every node that has some to node `sink` at the least cost, at most 1 over every arc.
  /// Calls `use` with the number of every arc that carries flow, as they were added.
  void solve(const std::vector<Amount>& supply, Index sink, const std::function<void(std::size_t)>& use) const {
    std::vector<std::size_t> order(arcs_.size());  // the graph wants its arcs sorted by source
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return arcs_[a].from < arcs_[b].from; });
    std::vector<std::pair<int, int>> ends;
    ends.reserve(order.size());
    for (const std::size_t arc : order) ends.emplace_back(arcs_[arc].from, arcs_[arc].to);
    using Graph = lemon::StaticDigraph;
    Graph graph;
    graph.build(static_cast<int>(supply.size()), ends.begin(), ends.end());
    Graph::ArcMap<Amount> room(graph, 1);
    Graph::ArcMap<Amount> cost(graph);
    for (std::size_t place = 0; place < order.size(); ++place) {
      cost[Graph::arc(static_cast<int>(place))] = arcs_[order[place]].cost;
    }
    Graph::NodeMap<Amount> balance(graph);
    Amount sent = 0;
    for (std::size_t node = 0; node < supply.size(); ++node) {
      balance[Graph::node(static_cast<int>(node))] = supply[node];
      sent += supply[node];
    }
    balance[Graph::node(static_cast<int>(sink))] = -sent;
    using Solver = lemon::NetworkSimplex<Graph, Amount, Amount>;
    Solver simplex(graph);
    simplex.upperMap(room).costMap(cost).supplyMap(balance);
    // The fastest of its rules here; the optimum is the same by all.
    if (simplex.run(Solver::CANDIDATE_LIST) != Solver::OPTIMAL) {
      throw Error(ErrorCode::policy_failure, "the flow problem has no optimum", {.parameter = "flow_plan"});
    }
    for (std::size_t place = 0; place < order.size(); ++place) {
      if (simplex.flow(Graph::arc(static_cast<int>(place))) > 0) use(order[place]);
    }
  }

 private:
  struct Arc {
    int from, to;
    Amount cost;
  };
  std::vector<Arc> arcs_;
};

/// [token] the last cut that it survives, so that at most `capacity` tokens survive every cut and the losses sum up to
/// the least. Losses fall from cut to cut, so nothing leaves before it must: at every cut as many leave as came above
/// the capacity since the one before, and who leaves when is an assignment of tokens to those departures.
std::vector<Index> last_cuts(const std::vector<Token>& tokens, Index cuts, Index capacity) {
  std::vector<Index> last(tokens.size(), cuts - 1);
  std::vector<Amount> supply(static_cast<std::size_t>(cuts) + tokens.size() + 1, 0);
  for (const Token& token : tokens) {
    if (token.first < cuts) ++supply[static_cast<std::size_t>(token.first)];  // arrivals, for now
  }
  Amount resident = 0;
  for (std::size_t cut = 0; cut < static_cast<std::size_t>(cuts); ++cut) {
    resident += supply[cut];
    supply[cut] = std::max<Amount>(0, resident - capacity);
    resident -= supply[cut];
  }
  Network network;
  std::vector<std::pair<std::size_t, Index>> departures;  ///< [arc] token and cut
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    for (Index cut = tokens[i].first; cut < cuts; ++cut) {
      if (supply[static_cast<std::size_t>(cut)] == 0) continue;
      network.add(cut, cuts + static_cast<Index>(i), tokens[i].losses[static_cast<std::size_t>(cut - tokens[i].first)]);
      departures.emplace_back(i, cut);
    }
  }
  if (departures.empty()) return last;
  const Index sink = cuts + static_cast<Index>(tokens.size());
  for (std::size_t i = 0; i < tokens.size(); ++i) network.add(cuts + static_cast<Index>(i), sink, 0);
  network.solve(supply, sink, [&](std::size_t arc) {
    if (arc < departures.size()) last[departures[arc].first] = departures[arc].second - 1;
  });
  return last;
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
    const Index cuts = (future.length() - prompt + steps_ - 1) / steps_;
    std::vector<Token> tokens(static_cast<std::size_t>(future.length()));
    for (Index row = 0; row < future.length(); ++row) {
      Token& token = tokens[static_cast<std::size_t>(row)];
      token.first = row < prompt ? 0 : (row - prompt) / steps_ + 1;
      token.losses.assign(static_cast<std::size_t>(std::max<Index>(0, cuts - token.first)), 0);
    }
    for (std::size_t r = 0; r < attention.rows.size(); ++r) {
      const Index cut = (attention.rows[r] - prompt) / steps_;  // the last one before the row
      for (Index row = 0; row <= attention.rows[r]; ++row) {
        Token& token = tokens[static_cast<std::size_t>(row)];
        if (cut < token.first) continue;
        double mass = 0;
        for (const models::MatrixDouble& weights : attention.by_query) mass += weights(static_cast<Index>(r), row);
        token.losses[static_cast<std::size_t>(cut - token.first)] += std::llround(mass * units_per_mass);
      }
    }
    for (Token& token : tokens) {  // from the attention of each stretch between two cuts to that of all from there on
      std::partial_sum(token.losses.rbegin(), token.losses.rend(), token.losses.rbegin());
    }
    std::vector<Index> last = last_cuts(tokens, cuts, static_cast<Index>(budget.entries));
    return plans_.emplace(std::pair(head, budget.entries), std::move(last)).first->second;
  }

  static constexpr double units_per_mass = 1e9;
  Index steps_;
  std::map<std::pair<int, std::int64_t>, std::vector<Index>> plans_;
};

const Registration registration(
    {.name = "flow_plan",
     .sentence = "Keeps, at every cut, what the plan of least lost attention keeps; sees the future.",
     .citation = "min-cost flow of tokens to departures, LEMON's network simplex; a reference of this project",
     .parameters = {integer_parameter("steps", "1", 1, 1e9, "decode rows between two cuts")},
     .make = MakeOracle([](const Parameters& parameters) { return std::make_unique<FlowPlan>(parameters); }),
     .default_schedule = "every()"});

}  // namespace
}  // namespace evictsim::policies
