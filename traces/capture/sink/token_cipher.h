#pragma once
/// \file
/// Hides what was said: token ids are replaced by others of the vocabulary.

#include <cstdint>
#include <string>
#include <vector>

namespace evictsim::traces::capture {

/// A permutation of [0, vocabulary) drawn from a key: equal tokens stay equal and different ones different, so that
/// what policies and statistics look at stays; without the key nobody can tell which token was which, except by how
/// often tokens occur.
class TokenCipher {
 public:
  /// An empty key stands for a random one that nobody keeps.
  TokenCipher(const std::string& key, int vocabulary);
  [[nodiscard]] std::int32_t operator()(std::int32_t token) const { return table_[static_cast<std::size_t>(token)]; }

 private:
  std::vector<std::int32_t> table_;
};

}  // namespace evictsim::traces::capture
