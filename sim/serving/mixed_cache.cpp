#include "sim/serving/mixed_cache.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <utility>

#include "traces/error.h"

namespace evictsim::sim {
namespace {

bool evictable(const models::LayerAttention& attention) {
  return attention.kind == models::AttentionKind::full || attention.kind == models::AttentionKind::latent;
}

/// Elements of keys and values per token.
struct Elements {
  std::int64_t evictable = 0, others = 0;
};

Elements elements_of(const models::Llm& llm) {
  Elements elements;
  for (const models::LlmLayer& layer : llm.layers) {
    (evictable(layer.attention) ? elements.evictable : elements.others) +=
        models::kv_elements_per_token(layer.attention);
  }
  return elements;
}

/// The mean of two caches over their layers, exact: what one of them reads in its units times a whole number.
class MixedCache final : public ResidentCache {
 public:
  MixedCache(std::shared_ptr<const ResidentCache> evicting, std::shared_ptr<const ResidentCache> other,
             Elements elements)
      : evicting_(std::move(evicting)), other_(std::move(other)) {
    const std::int64_t common = std::gcd(elements.evictable, elements.others);
    evicting_weight_ = elements.evictable / common;
    other_weight_ = elements.others / common;
    const std::int64_t first = evicting_->units_per_entry(), second = other_->units_per_entry();
    const std::int64_t unit = std::lcm(first, second);
    evicting_units_ = evicting_weight_ * (unit / first);
    other_units_ = other_weight_ * (unit / second);
    units_ = unit * (evicting_weight_ + other_weight_);
  }

  [[nodiscard]] std::int64_t units_per_entry() const override { return units_; }

  [[nodiscard]] ReadSpan reads(std::int64_t prompt, std::int64_t context) const override {
    const ReadSpan one = evicting_->reads(prompt, context), two = other_->reads(prompt, context);
    return {evicting_units_ * one.units + other_units_ * two.units,
            evicting_units_ * one.units_per_token + other_units_ * two.units_per_token, one.extra + two.extra,
            std::min(one.until, two.until)};
  }

  [[nodiscard]] std::int64_t blocks(std::int64_t prompt, std::int64_t context, int block_tokens) const override {
    const std::int64_t sum = evicting_weight_ * evicting_->blocks(prompt, context, block_tokens) +
                             other_weight_ * other_->blocks(prompt, context, block_tokens);
    const std::int64_t all = evicting_weight_ + other_weight_;
    return (sum + all - 1) / all;
  }

  [[nodiscard]] ChunkReads chunk(std::int64_t cached, std::int64_t tokens) const override {
    const ChunkReads one = evicting_->chunk(cached, tokens), two = other_->chunk(cached, tokens);
    return {mean(one.context, two.context), mean(one.pairs, two.pairs)};
  }

  [[nodiscard]] double tokens_below(std::int64_t prompt) const override {
    const auto weight = static_cast<double>(evicting_weight_);
    return evicting_->tokens_below(prompt) * weight / (weight + static_cast<double>(other_weight_));
  }
  [[nodiscard]] bool moves() const override { return evicting_->moves(); }
  [[nodiscard]] TierTraffic traffic(std::int64_t prompt, std::int64_t context) const override {
    return evicting_->traffic(prompt, context);
  }

 private:
  [[nodiscard]] std::int64_t mean(std::int64_t one, std::int64_t two) const {
    const auto all = static_cast<double>(evicting_weight_ + other_weight_);
    return std::llround(static_cast<double>(one) * (static_cast<double>(evicting_weight_) / all) +
                        static_cast<double>(two) * (static_cast<double>(other_weight_) / all));
  }

  std::shared_ptr<const ResidentCache> evicting_, other_;
  std::int64_t evicting_weight_ = 0, other_weight_ = 0;
  std::int64_t evicting_units_ = 0, other_units_ = 0, units_ = 0;
};

}  // namespace

double evictable_share(const models::Llm& llm) {
  const Elements elements = elements_of(llm);
  return static_cast<double>(elements.evictable) / static_cast<double>(elements.evictable + elements.others);
}

std::shared_ptr<const ResidentCache> mixed_cache(const models::Llm& llm,
                                                 std::shared_ptr<const ResidentCache> evicting) {
  const auto refuse = [&](const char* why) {
    throw Error(ErrorCode::invalid_argument, why, {.parameter = "--model", .value = llm.name});
  };
  models::Llm others = llm;
  others.layers.clear();
  for (const models::LlmLayer& layer : llm.layers) {
    if (layer.attention.index_heads > 0) {
      refuse("its layers choose by themselves what they read, so profiles of policies do not apply");
    }
    if (!evictable(layer.attention)) others.layers.push_back(layer);
  }
  const Elements elements = elements_of(llm);
  if (elements.evictable == 0) refuse("no layer of this model keeps everything, so profiles of policies do not apply");
  if (elements.others == 0) return evicting;
  return std::make_shared<MixedCache>(std::move(evicting), resident_cache(others), elements);
}

}  // namespace evictsim::sim
