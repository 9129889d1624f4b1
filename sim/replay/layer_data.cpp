#include "sim/replay/layer_data.h"

#include <algorithm>
#include <utility>

namespace evictsim::sim {

LayerData::LayerData(const models::Geometry& geometry, const models::Rope& rope, const traces::SequenceInfo& sequence,
                     std::size_t captured_layer, traces::LayerTensors tensors, LayerSide side)
    : geometry_(geometry),
      rope_(rope),
      sequence_(sequence),
      layer_(geometry.layers[captured_layer]),
      sliding_window_(geometry.window_of(captured_layer)),
      tensors_(std::move(tensors)),
      side_(std::move(side)) {}

void LayerData::replace_decode_rows(std::span<const float> k, std::span<const float> v, std::span<const float> q) {
  const auto width = static_cast<std::ptrdiff_t>(geometry_.head_dim);
  const std::ptrdiff_t rows = std::ssize(decode_rows());
  const auto replace = [&](std::span<const float> from, int heads, std::ptrdiff_t stored, std::vector<float>& into) {
    for (std::ptrdiff_t head = 0; head < heads; ++head) {
      for (std::ptrdiff_t row = 0; row < rows; ++row) {
        std::copy_n(from.begin() + (row * heads + head) * width, width,
                    into.begin() + (head * stored + stored - rows + row) * width);
      }
    }
  };
  replace(k, geometry_.num_kv_heads, tensors_.length, tensors_.k);
  replace(v, geometry_.num_kv_heads, tensors_.length, tensors_.v);
  replace(q, geometry_.num_query_heads, std::ssize(tensors_.q_rows), tensors_.q);
}

void LayerData::replace_decode_input(const Matrix& input) { side_.layer_input.bottomRows(input.rows()) = input; }

MatrixView LayerData::keys(int kv_head, Index rows) const {
  return models::view(tensors_.k.data() + kv_head * length() * geometry_.head_dim, rows, geometry_.head_dim);
}

MatrixView LayerData::values(int kv_head, Index rows) const {
  return models::view(tensors_.v.data() + kv_head * length() * geometry_.head_dim, rows, geometry_.head_dim);
}

MatrixView LayerData::queries(int query_head) const {
  const auto rows = static_cast<Index>(tensors_.q_rows.size());
  return models::view(tensors_.q.data() + query_head * rows * geometry_.head_dim, rows, geometry_.head_dim);
}

Index LayerData::query_place(Index row) const {
  const auto& rows = tensors_.q_rows;
  const auto found = std::lower_bound(rows.begin(), rows.end(), static_cast<std::int32_t>(row));
  return found != rows.end() && *found == row ? found - rows.begin() : -1;
}

std::span<const std::int32_t> LayerData::decode_rows() const {
  const auto& rows = tensors_.q_rows;
  const auto first = std::lower_bound(rows.begin(), rows.end(), sequence_.prompt_length);
  return {first, rows.end()};
}

Matrix LayerData::group_queries(int kv_head, std::span<const std::int32_t> rows) const {
  const int group = geometry_.group_size();
  const auto count = static_cast<Index>(rows.size());
  Matrix gathered(group * count, geometry_.head_dim);
  for (int g = 0; g < group; ++g) {
    const MatrixView head = queries(kv_head * group + g);
    for (Index r = 0; r < count; ++r) {
      gathered.row(g * count + r) = head.row(query_place(rows[static_cast<std::size_t>(r)]));
    }
  }
  return gathered;
}

std::vector<models::EntryRange> LayerData::group_visibility(std::span<const std::int32_t> rows) const {
  std::vector<models::EntryRange> visible;
  visible.reserve(rows.size() * static_cast<std::size_t>(geometry_.group_size()));
  for (int g = 0; g < geometry_.group_size(); ++g) {
    for (const std::int32_t row : rows) {
      visible.push_back(models::visible_entries(positions(), row, sliding_window_));
    }
  }
  return visible;
}

}  // namespace evictsim::sim
