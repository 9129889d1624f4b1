#pragma once
/// \file
/// Workloads that are made up: when requests arrive, how long they are and what they share. Text form and meaning:
/// docs/plan.md, "Workloads".

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sim/serving/random_numbers.h"
#include "traces/workload/workload.h"

namespace evictsim::sim {

enum class ArrivalProcess : std::uint8_t {
  poisson,   ///< independent exponential gaps
  gamma,     ///< independent gamma gaps: burstier than poisson for a coefficient of variation above 1
  constant,  ///< equal gaps
  closed,    ///< so many users, each of whom waits for the answer before the next request
};

/// A number of tokens: one value, or lognormal with that mean and coefficient of variation, rounded, at least 1.
struct TokenCount {
  double mean = 1;
  double variation = 0;  ///< standard deviation / mean; 0: always the mean

  /// `256`, `fixed(256)` or `lognormal(mean=1000, cv=1)`. Throws Error(invalid_argument, unknown_name) with
  /// `parameter`.
  static TokenCount parse(std::string_view text, const std::string& parameter);
  [[nodiscard]] std::string text() const;
  [[nodiscard]] std::int64_t draw(RandomNumbers& random) const;
  bool operator==(const TokenCount&) const = default;
};

/// Prompts and outputs of a measured distribution, drawn in pairs with replacement.
struct MeasuredLengths {
  std::string file;
  std::vector<traces::RequestLengths> lengths;
};

struct GeneratedWorkload {
  ArrivalProcess arrivals = ArrivalProcess::poisson;
  double variation = 1;          ///< gamma: of the gaps
  std::int64_t concurrency = 1;  ///< closed: users
  TokenCount prompt{1024, 0}, output{256, 0};
  std::shared_ptr<const MeasuredLengths> lengths;  ///< instead of prompt and output
  std::int64_t prefix_groups = 0;  ///< conversations belong to one of so many groups, equally likely ...
  std::int64_t prefix_tokens = 0;  ///< ... whose prompts all begin with so many tokens, which are added
  std::int64_t turns = 1;          ///< of a conversation; each prompt holds all that was said before
  double think_seconds = 0;        ///< mean of the exponential time before a user's next request

  /// Whether `text` names an arrival process rather than a file: `poisson`, `gamma(cv=2)`.
  static bool is_one(std::string_view text);
  /// `gamma(cv=2, prompt=lognormal(mean=1000, cv=1), output=256)`; what is not named is left as in `defaults`. Throws
  /// Error(invalid_argument, unknown_name), and what traces::read_lengths throws.
  static GeneratedWorkload parse(std::string_view text, const GeneratedWorkload& defaults);
  /// In full; reads back as the same.
  [[nodiscard]] std::string text() const;
  /// Throws Error(invalid_argument) for what is out of range.
  void check() const;
  [[nodiscard]] bool closed() const { return arrivals == ArrivalProcess::closed; }
  /// The time from one arrival to the next, of mean 1. Not for closed.
  [[nodiscard]] double gap(RandomNumbers& random) const;
};

/// Throws Error: invalid_argument, and those of reading.
std::shared_ptr<const MeasuredLengths> read_measured_lengths(const std::string& file);

}  // namespace evictsim::sim
