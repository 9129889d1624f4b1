#include "policies/kv_records.h"

#include <algorithm>

namespace evictsim::policies {
namespace {

constexpr Index norm_bytes = 4;

}  // namespace

KvRecords::KvRecords(const RecordLayout& layout, const PlacementView& layer, int first, int count,
                     std::mt19937_64 generator)
    : first_(first), count_(count), head_dim_(layer.hot().geometry().head_dim), record_bytes_(layout.bytes) {
  using Codec = RecordLayout::Codec;
  if (layout.codec == Codec::exact) {
    record_bytes_ = count * head_dim_ * layer.component_bytes() * (layout.holds_values ? 2 : 1);
    return;
  }
  const Codec key_codec = layout.codec == Codec::automatic ? Codec::rotation : layout.codec;
  const Codec value_codec =
      layout.codec != Codec::automatic ? layout.codec : (count == 1 ? Codec::rotation : Codec::low_rank);
  const Index codes = layout.bytes - 2 * norm_bytes;
  const Index value_bytes = layout.holds_values ? codes / (count == 1 ? 2 : 3) + norm_bytes : 0;
  key_ = make(key_codec, layer, &PlacementView::keys, layout.bytes - value_bytes, generator);
  if (layout.holds_values) {
    generator.seed(generator());
    value_ = make(value_codec, layer, &PlacementView::values, value_bytes, generator);
  }
}

models::DirectionCodec KvRecords::make(RecordLayout::Codec codec, const PlacementView& layer, Tensor tensor,
                                       Index bytes, std::mt19937_64 generator) const {
  if (codec == RecordLayout::Codec::rotation) {
    return models::DirectionCodec::random(count_ * head_dim_, bytes, generator);
  }
  models::Matrix prompt(layer.hot().prompt_length(), count_ * head_dim_);
  for (Index row = 0; row < prompt.rows(); ++row) {
    const std::vector<float> vector = gather(layer, tensor, row);
    std::copy(vector.begin(), vector.end(), prompt.row(row).data());
  }
  return models::DirectionCodec::principal(prompt, bytes);
}

std::vector<float> KvRecords::gather(const PlacementView& layer, Tensor tensor, Index row) const {
  std::vector<float> vector;
  for (int head = first_; head < first_ + count_; ++head) {
    const models::MatrixView matrix = (layer.*tensor)(head);
    const float* numbers = matrix.data() + row * matrix.outerStride();
    vector.insert(vector.end(), numbers, numbers + head_dim_);
  }
  return vector;
}

void KvRecords::decode(const models::DirectionCodec& codec, const std::uint8_t* record, std::int32_t row,
                       std::vector<ChangedRows>& rows) const {
  std::vector<float> vector(static_cast<std::size_t>(count_ * head_dim_));
  codec.decode({record, static_cast<std::size_t>(codec.bytes())}, vector);
  for (int head = 0; head < count_; ++head) {
    const auto begin = vector.begin() + head * head_dim_;
    std::copy(begin, begin + head_dim_, rows[static_cast<std::size_t>(first_ + head)].row(row).begin());
  }
}

void KvRecords::append(const PlacementView& layer, std::int32_t row, std::vector<ChangedRows>& keys,
                       std::vector<ChangedRows>& values) {
  ++size_;
  if (!key_) return;
  const std::size_t begin = log_.size();
  key_->encode(gather(layer, &PlacementView::keys, row), log_);
  if (value_) value_->encode(gather(layer, &PlacementView::values, row), log_);
  decode(*key_, log_.data() + begin, row, keys);
  if (value_) decode(*value_, log_.data() + begin + key_->bytes(), row, values);
}

Index KvRecords::shared_bytes() const {
  return (key_ ? key_->shared_bytes() : 0) + (value_ ? value_->shared_bytes() : 0);
}

}  // namespace evictsim::policies
