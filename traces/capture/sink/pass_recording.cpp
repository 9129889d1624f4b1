#include "traces/capture/sink/pass_recording.h"

#include <fmt/format.h>

#include <algorithm>

namespace evictsim::traces::capture {
namespace {

constexpr std::array pass_tensors = {LayerTensor::key, LayerTensor::value, LayerTensor::query};

}  // namespace

bool pass_takes(Pass pass, Role role) {
  return role == Role::query || role == Role::key || (role == Role::value && pass != Pass::second);
}

bool pass_needs(Pass pass, LayerTensor tensor) {
  if (pass == Pass::second) return tensor == LayerTensor::query;
  const bool alone = pass == Pass::wrapped || pass == Pass::bare;
  return tensor != LayerTensor::query || !alone;
}

PassRecording::PassRecording(Pass pass, std::optional<std::size_t> rows, const ModelRecord& model,
                             const CaptureOptions& options)
    : pass_(pass), rows_(rows), model_(&model), options_(&options) {
  for (std::size_t layer = 0; layer < model.stored.layers.size(); ++layer) {
    for (const LayerTensor tensor : pass_tensors) {
      streams_.emplace_back(DatasetPlace{pass, layer, tensor}, model.stored, options.type);
    }
  }
}

std::size_t PassRecording::most_pending_bytes(const ModelRecord& model, const CaptureOptions& options) {
  std::size_t bytes = 0;
  for (const LayerTensor tensor : pass_tensors) bytes += ChunkStream::chunk_bytes(tensor, model.stored, options.type);
  return bytes * model.stored.layers.size();
}

void PassRecording::require_next(std::int64_t first, std::int64_t count) const {
  const auto wrong = [](const char* name, std::int64_t value, const std::string& rule) {
    return Error(ErrorCode::invalid_argument, rule,
                 {.file = {}, .dataset = {}, .parameter = name, .value = std::to_string(value)});
  };
  if (first != static_cast<std::int64_t>(announced_)) {
    throw wrong("first_position", first, fmt::format("must be {}, the pass's next row", announced_));
  }
  if (rows_ && announced_ + static_cast<std::size_t>(count) > *rows_) {
    throw wrong("count", count, fmt::format("the pass was announced with {} rows, {} have come", *rows_, announced_));
  }
}

std::optional<PassLoss> PassRecording::append(std::size_t layer, LayerTensor tensor, std::size_t first,
                                              std::size_t rows, std::span<const std::byte> bytes, TensorType type,
                                              const TakeChunk& take, std::vector<float>& scratch) {
  if (lost_) return std::nullopt;
  ChunkStream& stream = streams_[layer * pass_tensors.size() + static_cast<std::size_t>(tensor)];
  const int number = model_->stored.layers[layer];
  if (first != stream.rows()) {
    return PassLoss{fmt::format("layer {}: {} was not pushed in every step", number, to_string(tensor))};
  }
  switch (stream.append(bytes.data(), type, rows, take, scratch)) {
    case ChunkStream::Outcome::no_room:
      return PassLoss{"the writers' queue was full"};
    case ChunkStream::Outcome::bad_value:
      return PassLoss{bad_value_text(tensor, number, options_->type), true};
    case ChunkStream::Outcome::stored:
      break;
  }
  return std::nullopt;
}

bool PassRecording::has(std::size_t rows) const {
  if (lost_ || announced_ < (rows_ ? *rows_ : rows)) return false;
  return std::all_of(streams_.begin(), streams_.end(), [&](const ChunkStream& stream) {
    return stream.rows() >= rows || (stream.rows() == 0 && !pass_needs(pass_, stream.place().tensor));
  });
}

void PassRecording::finish(std::size_t rows, const TakeChunk& take) {
  for (ChunkStream& stream : streams_) stream.finish(rows, take);
}

}  // namespace evictsim::traces::capture
