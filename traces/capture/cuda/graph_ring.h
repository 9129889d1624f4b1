#pragma once
/// \file
/// A ring in device memory that kernels inside CUDA graphs write to. Addresses in a graph are fixed, so the place of a
/// record is decided by a cursor in device memory when the graph runs. Three kernels per captured tensor, in stream
/// order: claim a record, write it, publish it. The host reads what is published and moves `consumed` on. A record that
/// does not fit is counted, never half written, and so is one of a graph that runs beside another one.

#include <cstdint>

#include "traces/capture/cuda/gather_rows.h"
#include "traces/host_device.h"

namespace evictsim::traces::capture {

/// Before each record.
struct GraphRecordHeader {
  std::uint64_t bytes;  ///< to the next header
  std::uint64_t step;   ///< what GraphStep announced; 0: nothing
  std::uint64_t site;   ///< number of the captured tensor
  std::uint64_t unused;
};

/// Records begin at multiples of this, so that rows are aligned and a header fits wherever the ring wraps.
inline constexpr std::uint64_t graph_record_alignment = 64;
inline constexpr std::uint64_t graph_header_bytes = graph_record_alignment;
/// The `site` of the rest of the ring that a record did not fit into.
inline constexpr std::uint64_t graph_padding = ~std::uint64_t{0};

/// Cursors and counters, in device memory. Positions count bytes since the beginning and never wrap.
struct GraphRingState {
  std::uint64_t published;         ///< everything before is complete
  std::uint64_t claim_end;         ///< of the record being written
  std::uint64_t step;              ///< stamped on records
  std::uint64_t dropped_rows;      ///< for lack of room
  std::uint64_t conflicting_rows;  ///< dropped because another graph was writing
  std::uint32_t busy;              ///< 1 while a record is being written
  std::uint32_t unused;
};

namespace graph_ring {

EVICTSIM_HOST_DEVICE inline std::uint32_t exchange(std::uint32_t* word, std::uint32_t value) noexcept {
#if defined(__CUDA_ARCH__)
  return atomicExch(word, value);
#else
  const std::uint32_t before = *word;
  *word = value;
  return before;
#endif
}

EVICTSIM_HOST_DEVICE inline void add(std::uint64_t* counter, std::uint64_t amount) noexcept {
#if defined(__CUDA_ARCH__)
  atomicAdd(reinterpret_cast<unsigned long long*>(counter), static_cast<unsigned long long>(amount));
#else
  *counter += amount;
#endif
}

}  // namespace graph_ring

/// Takes room for one record, by one thread.
struct GraphClaim {
  GraphRingState* state = nullptr;
  const std::uint64_t* consumed = nullptr;  ///< the host's cursor, in device memory
  std::uint64_t* grant = nullptr;           ///< of this site: the record's position, or none
  unsigned char* ring = nullptr;
  std::uint64_t ring_bytes = 0;    ///< a multiple of the alignment
  std::uint64_t record_bytes = 0;  ///< with the header, a multiple of the alignment
  std::uint64_t rows = 0;
  std::uint64_t site = 0;

  EVICTSIM_HOST_DEVICE void operator()() const noexcept {
    *grant = KernelOutput::no_grant;
    if (graph_ring::exchange(&state->busy, 1) != 0) {
      graph_ring::add(&state->conflicting_rows, rows);
      return;
    }
    const std::uint64_t begin = state->published;
    const std::uint64_t to_end = ring_bytes - begin % ring_bytes;
    const std::uint64_t skipped = to_end < record_bytes ? to_end : 0;
    const std::uint64_t taken = *static_cast<const volatile std::uint64_t*>(consumed);
    if (begin + skipped + record_bytes - taken > ring_bytes) {
      graph_ring::add(&state->dropped_rows, rows);
      graph_ring::exchange(&state->busy, 0);
      return;
    }
    if (skipped > 0) *header(begin) = {skipped, 0, graph_padding, 0};
    *header(begin + skipped) = {record_bytes, state->step, site, 0};
    state->claim_end = begin + skipped + record_bytes;
    *grant = begin + skipped;
  }

 private:
  [[nodiscard]] EVICTSIM_HOST_DEVICE GraphRecordHeader* header(std::uint64_t position) const noexcept {
    return reinterpret_cast<GraphRecordHeader*>(ring + position % ring_bytes);
  }
};

/// Makes the record that GraphClaim took visible, by one thread, after the kernel that wrote it.
struct GraphPublish {
  GraphRingState* state = nullptr;
  std::uint64_t* grant = nullptr;

  EVICTSIM_HOST_DEVICE void operator()() const noexcept {
    if (*grant == KernelOutput::no_grant) return;
    *grant = KernelOutput::no_grant;
    state->published = state->claim_end;
    graph_ring::exchange(&state->busy, 0);
  }
};

/// Says which step the graphs behind it on the stream belong to, by one thread.
struct GraphStep {
  GraphRingState* state = nullptr;
  std::uint64_t step = 0;

  EVICTSIM_HOST_DEVICE void operator()() const noexcept { state->step = step; }
};

}  // namespace evictsim::traces::capture
