#pragma once
/// \file
/// What is reduced on the device where rows live, because the rows themselves are too large to leave it: entropies of
/// logits, norms and cosines. Sums run in double precision in a fixed order. Definitions: docs/trace-format.md.

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "traces/capture/cuda/gather_rows.h"
#include "traces/capture/cuda/team.h"

namespace evictsim::traces::capture {

/// LogitStatistics' output: these arrays one behind the other.
struct LogitRows {
  float* entropy;               ///< [rows] nats
  float* entropy_top;           ///< [rows, 3] over the most probable tokens, not renormalised
  float* log_normaliser;        ///< [rows] log of the sum of exponentials
  float* logprob;               ///< [rows] of the row's target token; NaN without one
  std::int32_t* most_probable;  ///< [rows] the lowest index among equals; -1 for a row without a distribution

  static constexpr std::int64_t row_bytes = 7 * 4;

  EVICTSIM_HOST_DEVICE static LogitRows at(void* base, std::int64_t rows) noexcept {
    float* const first = static_cast<float*>(base);
    return {first, first + rows, first + 4 * rows, first + 5 * rows, reinterpret_cast<std::int32_t*>(first + 6 * rows)};
  }
};

/// Logits [rows, vocabulary] to LogitRows. -infinity is a token of probability 0; a row with NaN or +infinity, or
/// without any finite logit, gives NaN and most_probable -1.
struct LogitStatistics {
  RowSource source;  ///< one head; width = vocabulary
  std::int64_t rows = 0;
  std::uint32_t tops[3] = {128, 256, 512};  ///< ascending, at most `candidates`
  const std::int64_t* targets = nullptr;    ///< [rows] token ids in device memory, or null; negative: none
  KernelOutput output;

  static constexpr int candidates = 512;

  /// Memory that the lanes of a team share.
  struct Scratch {
    double sum[team_lanes];
    double weighted[team_lanes];
    float best[team_lanes];
    std::int32_t best_index[team_lanes];
    std::uint32_t broken[team_lanes];
    std::uint32_t histogram[256];
    std::uint32_t prefix, wanted, found;
    float largest[candidates];
    double terms[candidates];
  };

  /// A float's bits, reordered so that larger floats are larger integers.
  [[nodiscard]] EVICTSIM_HOST_DEVICE static std::uint32_t rank_of(float value) noexcept {
    const std::uint32_t bits = float_format::bits_of(value);
    return (bits & float_format::sign_bit) != 0 ? ~bits : bits | float_format::sign_bit;
  }
  [[nodiscard]] EVICTSIM_HOST_DEVICE static float value_of(std::uint32_t rank) noexcept {
    return float_format::float_of((rank & float_format::sign_bit) != 0 ? rank & ~float_format::sign_bit : ~rank);
  }

  template <typename Team>
  EVICTSIM_HOST_DEVICE void operator()(std::int64_t row, const Team& team, Scratch& scratch) const {
    unsigned char* const target = output.resolve();
    if (target == nullptr) return;
    const LogitRows result = LogitRows::at(target, rows);
    const std::int64_t index = source.index_of(row);
    if (index >= 0) find_highest(index, team, scratch);
    if (index < 0 || scratch.broken[0] != 0 || scratch.best_index[0] < 0) {
      team.each([&](int lane) {
        if (lane != 0) return;
        result.entropy[row] = result.log_normaliser[row] = result.logprob[row] = not_a_number();
        for (int top = 0; top < 3; ++top) result.entropy_top[row * 3 + top] = not_a_number();
        result.most_probable[row] = -1;
      });
      return;
    }
    sum_weights(index, team, scratch);
    select_candidates(index, team, scratch);
    sort_candidates(team, scratch);
    write(row, index, result, team, scratch);
  }

 private:
  [[nodiscard]] EVICTSIM_HOST_DEVICE static float not_a_number() noexcept {
    return float_format::float_of(0x7fc00000U);
  }

  [[nodiscard]] EVICTSIM_HOST_DEVICE float logit(std::int64_t index, std::int64_t token) const noexcept {
    return load_element(source.data, source.type, source.offset_of(index, 0) + token * source.element_stride);
  }

  template <typename Team>
  EVICTSIM_HOST_DEVICE void find_highest(std::int64_t index, const Team& team, Scratch& scratch) const {
    team.each([&](int lane) {
      float best = -INFINITY;
      std::int32_t place = -1;
      std::uint32_t broken = 0;
      for (std::int64_t token = lane; token < source.width; token += team_lanes) {
        const float value = logit(index, token);
        broken |= static_cast<std::uint32_t>(!(value < INFINITY));
        if (value > best) {
          best = value;
          place = static_cast<std::int32_t>(token);
        }
      }
      scratch.best[lane] = best;
      scratch.best_index[lane] = place;
      scratch.broken[lane] = broken;
    });
    fold_lanes(team, [&](int into, int from) {
      scratch.broken[into] |= scratch.broken[from];
      const bool higher = scratch.best[from] > scratch.best[into];
      const bool earlier = scratch.best[from] == scratch.best[into] && scratch.best_index[from] >= 0 &&
                           (scratch.best_index[into] < 0 || scratch.best_index[from] < scratch.best_index[into]);
      if (higher || earlier) {
        scratch.best[into] = scratch.best[from];
        scratch.best_index[into] = scratch.best_index[from];
      }
    });
  }

  template <typename Team>
  EVICTSIM_HOST_DEVICE void sum_weights(std::int64_t index, const Team& team, Scratch& scratch) const {
    team.each([&](int lane) {
      const auto highest = static_cast<double>(scratch.best[0]);
      double sum = 0, weighted = 0;
      for (std::int64_t token = lane; token < source.width; token += team_lanes) {
        const double shifted = static_cast<double>(logit(index, token)) - highest;
        const double weight = exp(shifted);
        sum += weight;
        if (weight > 0) weighted += weight * shifted;
      }
      scratch.sum[lane] = sum;
      scratch.weighted[lane] = weighted;
    });
    fold_lanes(team, [&](int into, int from) {
      scratch.sum[into] += scratch.sum[from];
      scratch.weighted[into] += scratch.weighted[from];
    });
  }

  /// Radix selection, eight bits at a time: the rank of the `candidates`-th largest logit, then all above it. Equal
  /// logits are equal numbers, so filling up with the last one's value is exact.
  template <typename Team>
  EVICTSIM_HOST_DEVICE void select_candidates(std::int64_t index, const Team& team, Scratch& scratch) const {
    const auto count = static_cast<std::uint32_t>(source.width < candidates ? source.width : candidates);
    team.each([&](int lane) {
      if (lane == 0) {
        scratch.prefix = 0;
        scratch.wanted = count;
        scratch.found = 0;
      }
    });
    for (int shift = 24; shift >= 0; shift -= 8) {
      team.each([&](int lane) {
        for (int bin = lane; bin < 256; bin += team_lanes) scratch.histogram[bin] = 0;
      });
      team.each([&](int lane) {
        for (std::int64_t token = lane; token < source.width; token += team_lanes) {
          const std::uint32_t rank = rank_of(logit(index, token));
          const bool inside = shift == 24 || (rank >> (shift + 8)) == (scratch.prefix >> (shift + 8));
          if (inside) team.add(scratch.histogram[(rank >> shift) & 0xffU], 1);
        }
      });
      team.each([&](int lane) {
        if (lane != 0) return;
        std::uint32_t bin = 255;
        while (scratch.histogram[bin] < scratch.wanted) scratch.wanted -= scratch.histogram[bin--];
        scratch.prefix |= bin << shift;
      });
    }
    team.each([&](int lane) {
      for (int place = lane; place < candidates; place += team_lanes) {
        scratch.largest[place] = place < static_cast<int>(count) ? value_of(scratch.prefix) : -INFINITY;
      }
    });
    team.each([&](int lane) {
      for (std::int64_t token = lane; token < source.width; token += team_lanes) {
        const float value = logit(index, token);
        if (rank_of(value) > scratch.prefix) scratch.largest[team.add(scratch.found, 1)] = value;
      }
    });
  }

  /// Bitonic, descending: lanes appended in any order, and the order of the sum must not depend on it.
  template <typename Team>
  EVICTSIM_HOST_DEVICE void sort_candidates(const Team& team, Scratch& scratch) const {
    for (int block = 2; block <= candidates; block *= 2) {
      for (int distance = block / 2; distance > 0; distance /= 2) {
        team.each([&](int lane) {
          for (int place = lane; place < candidates; place += team_lanes) {
            const int partner = place ^ distance;
            if (partner < place) continue;
            const bool descending = (place & block) == 0;
            const float left = scratch.largest[place], right = scratch.largest[partner];
            if (descending ? left < right : left > right) {
              scratch.largest[place] = right;
              scratch.largest[partner] = left;
            }
          }
        });
      }
    }
  }

  template <typename Team>
  EVICTSIM_HOST_DEVICE void write(std::int64_t row, std::int64_t index, const LogitRows& result, const Team& team,
                                  Scratch& scratch) const {
    team.each([&](int lane) {
      const double log_normaliser = static_cast<double>(scratch.best[0]) + log(scratch.sum[0]);
      for (int place = lane; place < candidates; place += team_lanes) {
        const double log_probability = static_cast<double>(scratch.largest[place]) - log_normaliser;
        const double probability = exp(log_probability);
        scratch.terms[place] = probability > 0 ? -probability * log_probability : 0;
      }
    });
    team.each([&](int lane) {
      if (lane != 0) return;
      const double log_normaliser = static_cast<double>(scratch.best[0]) + log(scratch.sum[0]);
      result.entropy[row] = static_cast<float>(log(scratch.sum[0]) - scratch.weighted[0] / scratch.sum[0]);
      double truncated = 0;
      std::uint32_t place = 0;
      for (int top = 0; top < 3; ++top) {
        for (; place < tops[top]; ++place) truncated += scratch.terms[place];
        result.entropy_top[row * 3 + top] = static_cast<float>(truncated);
      }
      result.log_normaliser[row] = static_cast<float>(log_normaliser);
      const std::int64_t token = targets == nullptr ? -1 : targets[row];
      result.logprob[row] = token >= 0 && token < source.width
                                ? static_cast<float>(static_cast<double>(logit(index, token)) - log_normaliser)
                                : not_a_number();
      result.most_probable[row] = scratch.best_index[0];
    });
  }
};

/// RowComparison's output: these arrays [rows] one behind the other.
struct ComparisonRows {
  float* norm;        ///< L2 norm of the first row
  float* other_norm;  ///< of the second one; 0 without one
  float* cosine;      ///< between both; 1 where one of them is zero
  float* distance;    ///< L2 norm of the difference

  static constexpr std::int64_t row_bytes = 4 * 4;
  static constexpr std::size_t norm_part = 0, cosine_part = 2, distance_part = 3;

  EVICTSIM_HOST_DEVICE static ComparisonRows at(void* base, std::int64_t rows) noexcept {
    float* const first = static_cast<float*>(base);
    return {first, first + rows, first + 2 * rows, first + 3 * rows};
  }
};

/// Rows [rows, heads * width] of one or two tensors to ComparisonRows. Each has a row of `second` beside it, or one of
/// `otherwise` where `second` has no index for it; without either cosine and distance are NaN.
struct RowComparison {
  RowSource first, second;  ///< second.data null: norms only
  RowSource otherwise;      ///< data null: rows that `second` has no index for read as zero
  std::int64_t rows = 0;
  KernelOutput output;

  struct Scratch {
    double first_square[team_lanes], second_square[team_lanes], product[team_lanes], difference[team_lanes];
  };

  template <typename Team>
  EVICTSIM_HOST_DEVICE void operator()(std::int64_t row, const Team& team, Scratch& scratch) const {
    unsigned char* const target = output.resolve();
    if (target == nullptr) return;
    const bool falls_back = otherwise.data != nullptr && second.index_of(row) < 0;
    const RowSource& other = falls_back ? otherwise : second;
    const bool alone = falls_back && otherwise.index_of(row) < 0;
    team.each([&](int lane) {
      double first_square = 0, second_square = 0, product = 0, difference = 0;
      for (std::int64_t i = lane; i < first.heads * first.width; i += team_lanes) {
        const double a = element(first, row, i);
        const double b = element(other, row, i);
        first_square += a * a;
        second_square += b * b;
        product += a * b;
        difference += (a - b) * (a - b);
      }
      scratch.first_square[lane] = first_square;
      scratch.second_square[lane] = second_square;
      scratch.product[lane] = product;
      scratch.difference[lane] = difference;
    });
    fold_lanes(team, [&](int into, int from) {
      scratch.first_square[into] += scratch.first_square[from];
      scratch.second_square[into] += scratch.second_square[from];
      scratch.product[into] += scratch.product[from];
      scratch.difference[into] += scratch.difference[from];
    });
    team.each([&](int lane) {
      if (lane != 0) return;
      const double norms = sqrt(scratch.first_square[0]) * sqrt(scratch.second_square[0]);
      const ComparisonRows result = ComparisonRows::at(target, rows);
      result.norm[row] = static_cast<float>(sqrt(scratch.first_square[0]));
      result.other_norm[row] = static_cast<float>(sqrt(scratch.second_square[0]));
      result.cosine[row] = norms > 0 || norms != norms ? static_cast<float>(scratch.product[0] / norms) : 1.0F;
      result.distance[row] = static_cast<float>(sqrt(scratch.difference[0]));
      if (alone) result.cosine[row] = result.distance[row] = float_format::float_of(0x7fc00000U);
    });
  }

 private:
  [[nodiscard]] EVICTSIM_HOST_DEVICE static double element(const RowSource& source, std::int64_t row, std::int64_t i) {
    if (source.data == nullptr) return 0;
    const std::int64_t index = source.index_of(row);
    if (index < 0) return 0;
    const std::int64_t offset = source.offset_of(index, i / source.width) + i % source.width * source.element_stride;
    return static_cast<double>(load_element(source.data, source.type, offset));
  }
};

}  // namespace evictsim::traces::capture
