#pragma once
/// \file
/// The allocator part: how is the budget split over layers and heads?

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "policies/budget.h"
#include "policies/cache_view.h"
#include "policies/needs.h"
#include "policies/scores.h"

namespace evictsim::policies {

/// One cut of one layer.
struct AllocationRequest {
  CutBudget budget;
  int layer = 0;       ///< index in the model
  int num_layers = 0;  ///< layers of the model
  const LayerScores* scores = nullptr;
  std::int64_t cut = 0;  ///< 0: the prompt's, then 1, 2, ... while decoding
  Index prompt_length = 0;
  Index seen = 0;                         ///< tokens seen so far
  std::span<const double> measured = {};  ///< what `Allocator::measure` answered for this layer
  /// Asked by an allocator that then moves counts between the layer's heads (Ada-KV); set by that one only.
  bool heads_share = false;
};

/// What an allocator must have seen before it can split.
enum class AllocationScope {
  layer,          ///< each layer by itself, at every cut
  model_once,     ///< all layers after the prompt; cuts while decoding keep the counts of the prompt's cut
  model_each_cut  ///< all layers at every cut, which happen in all layers at once
};

/// Stateless; one object serves all sequences, layers and budgets, from several threads.
class Allocator {
 public:
  virtual ~Allocator() = default;
  /// Sets `counts[head]`, the entries that head keeps; each head then keeps its best. Called at every cut, after
  /// scoring and protection. The engine limits counts to the entries a head has (and has not dropped).
  virtual void allocate(const AllocationRequest& request, std::span<Index> counts) const = 0;
  /// The same for all layers replayed, in their order; called in place of `allocate` where `scope` is not layer.
  virtual void allocate_model(std::span<const AllocationRequest> layers, std::span<std::vector<Index>> counts) const {
    for (std::size_t i = 0; i < layers.size(); ++i) allocate(layers[i], counts[i]);
  }
  [[nodiscard]] virtual AllocationScope scope() const { return AllocationScope::layer; }
  /// Called once per layer, with the whole prompt resident, before its first allocation: what `allocate` must know of
  /// the layer besides its scores.
  [[nodiscard]] virtual std::vector<double> measure(const CacheView& prompt) const {
    static_cast<void>(prompt);
    return {};
  }
  /// Whether counts come from elsewhere than the budget (a threshold, an interval): the policy then cuts at any budget.
  [[nodiscard]] virtual bool ignores_budget() const { return false; }
  [[nodiscard]] virtual Needs needs() const { return {}; }
};

/// An allocator around another, which splits the budget over layers (and heads) first.
class OuterAllocator : public Allocator {
 public:
  explicit OuterAllocator(std::shared_ptr<const Allocator> inner) : inner_(std::move(inner)) {}
  void allocate(const AllocationRequest& request, std::span<Index> counts) const final {
    AllocationRequest shared = request;
    shared.heads_share = true;
    inner_->allocate(shared, counts);
    share_heads(request, counts);
  }
  void allocate_model(std::span<const AllocationRequest> layers, std::span<std::vector<Index>> counts) const final {
    std::vector<AllocationRequest> shared(layers.begin(), layers.end());
    for (AllocationRequest& request : shared) request.heads_share = true;
    inner_->allocate_model(shared, counts);
    for (std::size_t i = 0; i < layers.size(); ++i) share_heads(layers[i], counts[i]);
  }
  [[nodiscard]] AllocationScope scope() const override { return inner_->scope(); }
  [[nodiscard]] std::vector<double> measure(const CacheView& prompt) const override { return inner_->measure(prompt); }
  [[nodiscard]] bool ignores_budget() const override { return inner_->ignores_budget(); }
  [[nodiscard]] Needs needs() const override { return inner_->needs(); }

 protected:
  /// Moves the counts that the inner allocator gave to the heads of a layer.
  virtual void share_heads(const AllocationRequest& request, std::span<Index> counts) const = 0;

 private:
  std::shared_ptr<const Allocator> inner_;
};

}  // namespace evictsim::policies
