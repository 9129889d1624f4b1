#pragma once
/// \file
/// Attention of one decode step over a paged cache: one query per query head, groups of query heads share a KV head,
/// and every KV head has a list of pages and a length of its own, as eviction per head leaves them (KV-Compress,
/// arXiv:2410.00161). Entries are split over teams whose results are merged (flash-decoding). One body for host and
/// device.

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "traces/capture/cuda/pack.h"
#include "traces/capture/cuda/team.h"

namespace evictsim::traces::capture {

/// Most query heads per KV head, and most numbers per head.
inline constexpr int most_group = 8;
inline constexpr int most_width = 256;
/// Entries that one team attends over: one per lane.
inline constexpr std::int64_t part_entries = team_lanes;

/// The cache and its queries, in device memory and aligned to 16 bytes. A "row" is one KV head of one sequence.
struct PagedCache {
  ElementType type = ElementType::f16;  ///< of keys and values
  std::int64_t rows = 0;
  int group = 1;                          ///< query heads per KV head, at most most_group
  int width = 0;                          ///< numbers per head, at most most_width, a multiple of pack_elements(type)
  int page_size = 0;                      ///< entries per page
  float scale = 1;                        ///< of q.k
  const float* query = nullptr;           ///< [rows, group, width]
  const void* keys = nullptr;             ///< [pages, page_size, width]
  const void* values = nullptr;           ///< the same
  const std::int32_t* lengths = nullptr;  ///< [rows] entries
  const std::int32_t* pages = nullptr;    ///< [rows, row_pages] page of each stretch of page_size entries
  std::int64_t row_pages = 0;

  /// Place of an entry, counted in entries. Divides in 32 bits: wider division would cost more than the reading.
  [[nodiscard]] EVICTSIM_HOST_DEVICE std::int64_t place_of(std::int64_t row, std::int64_t entry) const noexcept {
    const auto index = static_cast<std::uint32_t>(entry);
    const auto size = static_cast<std::uint32_t>(page_size);
    return static_cast<std::int64_t>(pages[row * row_pages + index / size]) * page_size + index % size;
  }
};

/// Results of the parts of every row.
struct AttentionParts {
  std::int64_t parts = 0;    ///< per row: enough for the longest one
  float* output = nullptr;   ///< [rows, parts, group, width] sums of exp(logit - highest) * value
  float* highest = nullptr;  ///< [rows, parts, group] largest logit
  float* sum = nullptr;      ///< [rows, parts, group] sum of exp(logit - highest)
};

/// The step over parts: team `row` is part row % parts of cache row row / parts. Parts behind a row's end do nothing.
struct DecodeAttention {
  PagedCache cache;
  AttentionParts result;
  std::int64_t rows = 0;  ///< teams: cache.rows * result.parts

  struct Scratch {
    float query[most_group * most_width];
    float weights[most_group * team_lanes];
    float exchange[16 * team_lanes];
    float highest[most_group];
  };

  /// On the host; a device has a kernel per type, since a kernel's registers are those of its widest path.
  template <typename Team>
  void operator()(std::int64_t team_row, const Team& team, Scratch& scratch) const {
    with_type(cache.type, [&](auto type) { attend<decltype(type)::value>(team_row, team, scratch); });
  }

  /// Calls `use` with the type as an integral_constant.
  template <typename Use>
  static auto with_type(ElementType type, const Use& use) {
    switch (type) {
      case ElementType::f32:
        return use(std::integral_constant<ElementType, ElementType::f32>{});
      case ElementType::f16:
        return use(std::integral_constant<ElementType, ElementType::f16>{});
      case ElementType::bf16:
        return use(std::integral_constant<ElementType, ElementType::bf16>{});
      case ElementType::fp8_e4m3:
        return use(std::integral_constant<ElementType, ElementType::fp8_e4m3>{});
      case ElementType::fp8_e5m2:
        break;
    }
    return use(std::integral_constant<ElementType, ElementType::fp8_e5m2>{});
  }

  /// One team's part; `type` is the cache's.
  template <ElementType type, typename Team>
  EVICTSIM_HOST_DEVICE void attend(std::int64_t team_row, const Team& team, Scratch& scratch) const {
    const std::int64_t row = team_row / result.parts;
    const std::int64_t first = team_row % result.parts * part_entries;
    const std::int64_t left = cache.lengths[row] - first;
    if (left <= 0) return;
    const int count = static_cast<int>(left < part_entries ? left : part_entries);
    team.each([&](int lane) {
      for (int i = lane; i < cache.group * cache.width; i += team_lanes) {
        scratch.query[i] = cache.scale * cache.query[row * cache.group * cache.width + i];
      }
    });
    for (int base = 0; base < count; base += pass_entries) score<type>(row, first, base, count, team, scratch);
    normalise(count, team, scratch);
    team.each([&](int lane) {
      if (lane >= cache.group) return;
      result.highest[team_row * cache.group + lane] = scratch.highest[lane];
      result.sum[team_row * cache.group + lane] = scratch.exchange[lane * team_lanes];
    });
    gather<type>(team_row, row, first, count, team, scratch);
  }

 private:
  static constexpr int entry_lanes = 8;  // lanes that read one key: a full line of memory at a time
  static constexpr int pass_entries = team_lanes / entry_lanes;

  /// Logits of the entries [base, base + pass_entries) of the part.
  template <ElementType type, typename Team>
  EVICTSIM_HOST_DEVICE void score(std::int64_t row, std::int64_t first, int base, int count, const Team& team,
                                  Scratch& scratch) const {
    constexpr int wide = pack_elements(type);
    const int packs = cache.width / wide;
    team.each([&](int lane) {
      const int entry = base + lane / entry_lanes;
      float dots[most_group] = {};
      if (entry < count) {
        const Pack* const key = static_cast<const Pack*>(cache.keys) + cache.place_of(row, first + entry) * packs;
        for (int pack = lane % entry_lanes; pack < packs; pack += entry_lanes) {
          const Unpacked<type> numbers(key[pack]);
          EVICTSIM_UNROLL
          for (int g = 0; g < most_group; ++g) {
            if (g >= cache.group) continue;
            const float* const query = scratch.query + g * cache.width + pack * wide;
            EVICTSIM_UNROLL
            for (int i = 0; i < wide; ++i) dots[g] = fmaf(numbers.of[i], query[i], dots[g]);
          }
        }
      }
      EVICTSIM_UNROLL
      for (int g = 0; g < most_group; ++g) {
        if (g < cache.group) scratch.exchange[g * team_lanes + lane] = dots[g];
      }
    });
    static_assert(pass_entries * most_group == team_lanes);
    team.each([&](int lane) {
      const int g = lane / pass_entries;
      const int entry = lane % pass_entries;
      if (g >= cache.group || base + entry >= count) return;
      float logit = 0;
      for (int i = 0; i < entry_lanes; ++i) logit += scratch.exchange[g * team_lanes + entry * entry_lanes + i];
      scratch.weights[g * team_lanes + base + entry] = logit;
    });
  }

  /// Logits become weights; their sums are left in exchange[g * team_lanes].
  template <typename Team>
  EVICTSIM_HOST_DEVICE void normalise(int count, const Team& team, Scratch& scratch) const {
    team.each([&](int lane) {
      for (int g = 0; g < cache.group; ++g) {
        scratch.exchange[g * team_lanes + lane] = lane < count ? scratch.weights[g * team_lanes + lane] : -INFINITY;
      }
    });
    fold_lanes(team, [&](int into, int from) {
      for (int g = 0; g < cache.group; ++g) {
        float& highest = scratch.exchange[g * team_lanes + into];
        const float other = scratch.exchange[g * team_lanes + from];
        if (other > highest) highest = other;
      }
    });
    team.each([&](int lane) {
      if (lane < cache.group) scratch.highest[lane] = scratch.exchange[lane * team_lanes];
    });
    team.each([&](int lane) {
      for (int g = 0; g < cache.group; ++g) {
        const float weight = lane < count ? expf(scratch.weights[g * team_lanes + lane] - scratch.highest[g]) : 0;
        scratch.weights[g * team_lanes + lane] = scratch.exchange[g * team_lanes + lane] = weight;
      }
    });
    fold_lanes(team, [&](int into, int from) {
      for (int g = 0; g < cache.group; ++g) {
        scratch.exchange[g * team_lanes + into] += scratch.exchange[g * team_lanes + from];
      }
    });
  }

  /// Weighted sums of values: lanes take a pack of the width and every so many entries, then slices are added up.
  template <ElementType type, typename Team>
  EVICTSIM_HOST_DEVICE void gather(std::int64_t team_row, std::int64_t row, std::int64_t first, int count,
                                   const Team& team, Scratch& scratch) const {
    constexpr int wide = pack_elements(type);
    struct Sums {
      float of[most_group][static_cast<std::size_t>(wide)];
    };
    const int packs = cache.width / wide;
    const int slices = team_lanes / packs;
    typename Team::template Lanes<Sums> sums;
    team.each([&](int lane) {
      Sums& own = sums[lane];
      const int slice = lane / packs;
      if (slice >= slices) return;
      for (int entry = slice; entry < count; entry += slices) {
        const Pack* const value = static_cast<const Pack*>(cache.values) + cache.place_of(row, first + entry) * packs;
        const Unpacked<type> numbers(value[lane % packs]);
        EVICTSIM_UNROLL
        for (int g = 0; g < most_group; ++g) {
          if (g >= cache.group) continue;
          const float weight = scratch.weights[g * team_lanes + entry];
          EVICTSIM_UNROLL
          for (int i = 0; i < wide; ++i) own.of[g][i] = fmaf(weight, numbers.of[i], own.of[g][i]);
        }
      }
    });
    EVICTSIM_UNROLL
    for (int g = 0; g < most_group; ++g) {
      if (g >= cache.group) continue;
      team.each([&](int lane) {
        const int slice = lane / packs;
        if (slice >= slices) return;
        EVICTSIM_UNROLL
        for (int i = 0; i < wide; ++i) {
          scratch.exchange[slice * cache.width + lane % packs * wide + i] = sums[lane].of[g][i];
        }
      });
      team.each([&](int lane) {
        for (int column = lane; column < cache.width; column += team_lanes) {
          float sum = 0;
          for (int slice = 0; slice < slices; ++slice) sum += scratch.exchange[slice * cache.width + column];
          result.output[(team_row * cache.group + g) * cache.width + column] = sum;
        }
      });
    }
  }
};

/// The parts of every cache row become its output [rows, group, width]; zeros for a row without entries.
struct AttentionMerge {
  PagedCache cache;
  AttentionParts parts;
  std::int64_t rows = 0;  ///< cache.rows
  float* output = nullptr;

  struct Scratch {
    float factor[most_group];  ///< 1 / sum of all weights
    float highest[most_group];
  };

  template <typename Team>
  EVICTSIM_HOST_DEVICE void operator()(std::int64_t row, const Team& team, Scratch& scratch) const {
    const std::int64_t used = (cache.lengths[row] + part_entries - 1) / part_entries;
    team.each([&](int lane) {
      if (lane >= cache.group) return;
      float highest = -INFINITY;
      for (std::int64_t part = 0; part < used; ++part) {
        const float other = parts.highest[place_of(row, part, lane)];
        if (other > highest) highest = other;
      }
      float sum = 0;
      for (std::int64_t part = 0; part < used; ++part) {
        const std::int64_t place = place_of(row, part, lane);
        sum += parts.sum[place] * expf(parts.highest[place] - highest);
      }
      scratch.highest[lane] = highest;
      scratch.factor[lane] = used > 0 ? 1 / sum : 0;
    });
    team.each([&](int lane) {
      for (int i = lane; i < cache.group * cache.width; i += team_lanes) {
        const int g = i / cache.width;
        float sum = 0;
        for (std::int64_t part = 0; part < used; ++part) {
          const std::int64_t place = place_of(row, part, g);
          sum += parts.output[place * cache.width + i % cache.width] * expf(parts.highest[place] - scratch.highest[g]);
        }
        output[row * cache.group * cache.width + i] = sum * scratch.factor[g];
      }
    });
  }

 private:
  [[nodiscard]] EVICTSIM_HOST_DEVICE std::int64_t place_of(std::int64_t row, std::int64_t part, int g) const noexcept {
    return (row * parts.parts + part) * cache.group + g;
  }
};

}  // namespace evictsim::traces::capture
