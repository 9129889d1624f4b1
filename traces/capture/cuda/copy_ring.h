#pragma once
/// \file
/// Room in a ring of fixed size, given out and taken back in the same order. Device and pinned memory of the copy
/// engine share one such ring: a piece has the same place in both.

#include <cstddef>
#include <deque>
#include <optional>

namespace evictsim::traces::capture {

/// Places of pieces; holds no memory itself. Not thread-safe.
class CopyRing {
 public:
  /// Pieces begin at multiples of this.
  static constexpr std::size_t alignment = 256;

  /// `bytes` is rounded down to the alignment.
  explicit CopyRing(std::size_t bytes) : bytes_(bytes / alignment * alignment) {}

  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
  [[nodiscard]] static std::size_t rounded(std::size_t bytes) noexcept {
    return (bytes + alignment - 1) / alignment * alignment;
  }

  /// Room for `bytes` in one run, or nothing while the pieces before it are in the way. Asking for more than bytes()
  /// never succeeds.
  std::optional<std::size_t> reserve(std::size_t bytes);
  /// Gives the oldest piece back.
  void release_oldest();

 private:
  struct Piece {
    std::size_t offset, bytes;
  };
  std::size_t bytes_;
  std::deque<Piece> pieces_;
};

}  // namespace evictsim::traces::capture
