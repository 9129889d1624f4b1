#include "traces/capture/cuda/copy_ring.h"

namespace evictsim::traces::capture {

std::optional<std::size_t> CopyRing::reserve(std::size_t bytes) {
  const std::size_t needed = rounded(bytes);
  std::size_t offset = 0;
  if (pieces_.empty()) {
    if (needed > bytes_) return std::nullopt;
  } else {
    const std::size_t begin = pieces_.front().offset;
    const std::size_t end = pieces_.back().offset + pieces_.back().bytes;
    const bool wrapped = pieces_.back().offset < begin;
    if (wrapped ? end + needed <= begin : end + needed <= bytes_) {
      offset = end;
    } else if (wrapped || needed > begin) {
      return std::nullopt;
    }
  }
  pieces_.push_back({offset, needed});
  return offset;
}

void CopyRing::release_oldest() { pieces_.pop_front(); }

}  // namespace evictsim::traces::capture
