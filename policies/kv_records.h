#pragma once
/// \file
/// A log of records of fixed size, one per token, that hold the keys and values of one or more KV heads.

#include <cstdint>
#include <optional>
#include <random>
#include <vector>

#include "models/kv_codec.h"
#include "policies/placement.h"
#include "policies/retrieval.h"

namespace evictsim::policies {

struct RecordLayout {
  enum class Codec { automatic, rotation, low_rank, exact };
  Codec codec = Codec::automatic;
  Index bytes = 104;         ///< of a record; the exact codec takes what k and v take
  bool holds_values = true;  ///< or values lie elsewhere, exact
};

/// Append-only. The code bytes of a record are shared between key and value: evenly for one KV head, two thirds for the
/// key where it covers several, each beside a float32 norm. `automatic` codes by random axes (a rotation, or a sign
/// sketch where there is less than a bit per component), values of several heads by their principal axes.
class KvRecords {
 public:
  /// Covers `count` KV heads from `first`. `layer` shows the prompt, from which principal axes are taken.
  KvRecords(const RecordLayout& layout, const PlacementView& layer, int first, int count, std::mt19937_64 generator);

  /// Appends the record of a token row and decodes it into the rows of `keys` and `values` [KV head of the layer].
  void append(const PlacementView& layer, std::int32_t row, std::vector<ChangedRows>& keys,
              std::vector<ChangedRows>& values);
  [[nodiscard]] Index record_bytes() const { return record_bytes_; }
  [[nodiscard]] Index size() const { return size_; }
  /// Tables that the codec shares between records.
  [[nodiscard]] Index shared_bytes() const;

 private:
  using Tensor = models::MatrixView (PlacementView::*)(int kv_head) const;
  /// The heads' vectors of a row, one after the other.
  [[nodiscard]] std::vector<float> gather(const PlacementView& layer, Tensor tensor, Index row) const;
  void decode(const models::DirectionCodec& codec, const std::uint8_t* record, std::int32_t row,
              std::vector<ChangedRows>& rows) const;
  [[nodiscard]] models::DirectionCodec make(RecordLayout::Codec codec, const PlacementView& layer, Tensor tensor,
                                            Index bytes, std::mt19937_64 generator) const;

  int first_;
  int count_;
  Index head_dim_;
  Index record_bytes_;
  Index size_ = 0;
  std::optional<models::DirectionCodec> key_, value_;  ///< empty: as recorded
  std::vector<std::uint8_t> log_;
};

}  // namespace evictsim::policies
