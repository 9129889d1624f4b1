#pragma once
/// \file
/// What the caches of one sequence did at one step. Columns: docs/run-file.md, "Events".

#include <array>
#include <cstdint>

namespace evictsim::analysis {

/// Sums over layers and cache heads; whole bytes of each layer, so that their order does not matter.
struct CacheEvent {
  std::int64_t row = 0;  ///< token row; the prompt's last one for its cut
  std::int64_t resident = 0;
  std::int64_t longest = 0;  ///< as `resident` if all heads of a layer held what its longest one does
  std::int64_t evicted = 0;
  std::int64_t recalled_host = 0, recalled_disk = 0;
  std::int64_t written_hbm = 0, written_host = 0, written_disk = 0;
  std::int64_t scanned = 0;
};

struct CacheEventColumn {
  const char* name;
  std::int64_t CacheEvent::*member;
};

/// Of events.csv and of `/events` in run files.
inline constexpr std::array cache_event_columns = {
    CacheEventColumn{"row", &CacheEvent::row},
    CacheEventColumn{"resident_entries", &CacheEvent::resident},
    CacheEventColumn{"evicted_entries", &CacheEvent::evicted},
    CacheEventColumn{"recalled_host_bytes", &CacheEvent::recalled_host},
    CacheEventColumn{"recalled_disk_bytes", &CacheEvent::recalled_disk},
    CacheEventColumn{"written_hbm_bytes", &CacheEvent::written_hbm},
    CacheEventColumn{"written_host_bytes", &CacheEvent::written_host},
    CacheEventColumn{"written_disk_bytes", &CacheEvent::written_disk},
    CacheEventColumn{"scanned_bytes", &CacheEvent::scanned},
    CacheEventColumn{"longest_entries", &CacheEvent::longest},
};

}  // namespace evictsim::analysis
