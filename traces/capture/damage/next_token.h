#pragma once
/// \file
/// The next-token distributions of a model that runs as it is, and how far another run of the same rows is from them.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace evictsim::traces::capture {

/// Means over rows.
struct NextTokenChange {
  double kl = 0;              ///< KL(reference || other), nats
  double nll_change = 0;      ///< nats; over the rows whose next token is known, NaN without any
  double top1_agreement = 0;  ///< share of rows with the same most probable token
};

/// Logits of some rows in a row, kept to compare other runs with.
class NextTokenReference {
 public:
  /// `logits` [R, vocab]; `next`: the token that follows row i, for the first next.size() <= R rows.
  NextTokenReference(std::span<const float> logits, std::size_t vocabulary, std::vector<std::int32_t> next);

  [[nodiscard]] NextTokenChange compare(std::span<const float> logits) const;
  [[nodiscard]] std::span<const float> logits() const { return logits_; }

 private:
  std::size_t vocabulary_;
  std::vector<float> logits_, probabilities_;  ///< [R, vocab]
  std::vector<double> log_sums_;               ///< [R] ln sum exp(logit)
  std::vector<std::size_t> best_;              ///< [R]
  std::vector<std::int32_t> next_;
};

}  // namespace evictsim::traces::capture
