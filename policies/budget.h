#pragma once
/// \file
/// What a user may ask to keep, and what that is in entries.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace evictsim::policies {

/// How much of the cache a policy may keep.
class Budget {
 public:
  /// Below 2 ("0.2", "1", "1.03"): share of the prompt's entries kept per KV head on average, > 0; a share above 1
  /// keeps decoded entries too. A whole number from 2 on, however spelt ("512", "512.0", "1e3"): entries per KV head.
  /// Throws Error(invalid_argument), also for other numbers above 2.
  static Budget parse(std::string_view text);
  /// `ratio` is the share removed, 0 <= ratio < 1, as kvpress takes it; `text()` is then the shortest decimal of
  /// 1 - ratio that reads back as the same double.
  static Budget from_compression_ratio(std::string_view ratio);

  /// As written by the user; names groups of the dump.
  [[nodiscard]] const std::string& text() const { return text_; }
  /// The number in `text()`.
  [[nodiscard]] double value() const { return value_; }
  [[nodiscard]] bool in_entries() const { return in_entries_; }
  /// A share of exactly 1 keeps everything, decoded entries included.
  [[nodiscard]] bool unlimited() const { return !in_entries_ && value_ == 1.0; }
  /// Entries per KV head for a prompt of `prompt_length`: int(prompt_length * share) in double precision, truncated, as
  /// kvpress counts, and at least 1; or the entries asked for. Not limited to the prompt's length.
  [[nodiscard]] std::int64_t entries(std::int64_t prompt_length) const;

  /// Equal when they keep the same, however written ("0.5" and "0.50").
  bool operator==(const Budget& other) const { return value_ == other.value_ && in_entries_ == other.in_entries_; }

 private:
  Budget(std::string text, double value, bool in_entries);
  std::string text_;
  double value_;
  bool in_entries_;
};

/// What one cut must bring a layer's heads down to, on average over KV heads (or query heads, where a policy keeps one
/// cache per query head).
struct CutBudget {
  std::int64_t cached = 0;   ///< entries per head before the cut (the longest head)
  std::int64_t entries = 0;  ///< entries per head to keep; may exceed `cached`
  /// `entries` before truncation: cached * share for a share of the prompt, else `entries`.
  double exact_entries = 0;
  /// The share of the cached entries as it was given; 0: given in entries.
  double share = 0;
};

}  // namespace evictsim::policies
