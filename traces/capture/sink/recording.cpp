#include "traces/capture/sink/recording.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "traces/capture/sink/tensor_rows.h"
#include "traces/row_stream.h"
#include "traces/trace_output.h"

namespace evictsim::traces::capture {
namespace {

constexpr std::array layer_tensors = {LayerTensor::key, LayerTensor::value, LayerTensor::query, LayerTensor::hidden};

std::size_t row_bytes_of(LayerTensor tensor, const ModelRecord& model, const CaptureOptions& options) {
  return element_count(row_shape(tensor, model.stored)) * hdf5::element_size(options.type);
}

}  // namespace

RequestRecording::RequestRecording(std::string request_id, const ModelRecord& model, const CaptureOptions& options)
    : model_(&model), options_(&options), channels_(model, options) {
  info_.request_id = std::move(request_id);
  const std::size_t layers = model.stored.layers.size();
  query_rows_.resize(layers);
  streams_.resize(layers * layer_tensor_count);
  for (std::size_t place = 0; place < layers; ++place) {
    for (const LayerTensor tensor : layer_tensors) {
      Stream& entry = stream(place, tensor);
      entry.row_elements = element_count(row_shape(tensor, model.stored));
      entry.row_bytes = row_bytes_of(tensor, model, options);
      entry.chunk_rows = rows_per_chunk(entry.row_bytes);
    }
  }
}

std::size_t RequestRecording::most_pending_bytes(const ModelRecord& model, const CaptureOptions& options) {
  std::size_t bytes = 0;
  for (const LayerTensor tensor : layer_tensors) {
    if (tensor == LayerTensor::hidden && !options.hidden) continue;
    const std::size_t row = row_bytes_of(tensor, model, options);
    bytes += rows_per_chunk(row) * row;
  }
  return bytes * model.stored.layers.size();
}

void RequestRecording::describe(SequenceInfo description) {
  info_.task = std::move(description.task);
  info_.text = std::move(description.text);
  info_.spans = std::move(description.spans);
}

void RequestRecording::add_tokens(std::span<const std::int32_t> tokens) {
  token_ids_.insert(token_ids_.end(), tokens.begin(), tokens.end());
}

void RequestRecording::lose(std::int32_t token, const std::string& reason) {
  if (token >= cut_) return;
  cut_ = token;
  last_loss_ = fmt::format("request {} from token {} on: {}", request_id(), token, reason);
}

std::int32_t RequestRecording::token_at(std::size_t place, LayerTensor tensor, std::size_t row) const {
  // Rows of queries are named; the others have one per token.
  return tensor == LayerTensor::query ? query_rows_[place][row] : static_cast<std::int32_t>(row);
}

bool RequestRecording::append(std::size_t place, LayerTensor tensor, std::span<const std::int32_t> tokens,
                              std::span<const std::byte> bytes, TensorType type, const Take& take) {
  Stream& target = stream(place, tensor);
  const std::size_t source_row = target.row_elements * hdf5::element_size(type);
  const auto usable = static_cast<std::size_t>(std::lower_bound(tokens.begin(), tokens.end(), cut_) - tokens.begin());
  tokens = tokens.first(usable);
  if (tokens.empty()) return true;
  if (tensor == LayerTensor::query) {
    query_rows_[place].insert(query_rows_[place].end(), tokens.begin(), tokens.end());
  } else if (static_cast<std::size_t>(tokens.front()) != target.rows()) {
    lose(static_cast<std::int32_t>(target.rows()),
         fmt::format("layer {}: {} was not pushed in every step", model_->stored.layers[place], to_string(tensor)));
    return true;
  }
  const std::byte* source = bytes.data();
  for (std::size_t left = tokens.size(); left > 0;) {
    const std::size_t full = target.chunk_rows * target.row_bytes;
    if (target.pending.size() == full && !submit(target, place, tensor, take)) {
      lose(tokens[tokens.size() - left], "the writers' queue was full");
      return true;
    }
    const std::size_t room = target.chunk_rows - target.pending.size() / target.row_bytes;
    const std::size_t taken = std::min(room, left);
    if (!append_rows(target, place, tensor, taken, source, type)) return false;
    if (target.pending.size() == full) submit(target, place, tensor, take);
    source += taken * source_row;
    left -= taken;
  }
  return true;
}

bool RequestRecording::append_rows(Stream& stream, std::size_t place, LayerTensor tensor, std::size_t rows,
                                   const std::byte* bytes, TensorType type) {
  const std::size_t used = stream.pending.size();
  const std::size_t count = rows * stream.row_elements;
  stream.pending.resize(used + rows * stream.row_bytes);
  const std::size_t stored = convert_rows(bytes, type, count, options_->type, stream.pending.data() + used, scratch_);
  if (stored < count) {
    stream.pending.resize(used + stored / stream.row_elements * stream.row_bytes);
    lose(token_at(place, tensor, stream.rows()),
         fmt::format("layer {}: {} holds NaN, infinity or a value beyond {}", model_->stored.layers[place],
                     to_string(tensor), traces::to_string(options_->type)));
    return false;
  }
  return true;
}

bool RequestRecording::submit(Stream& stream, std::size_t place, LayerTensor tensor, const Take& take) {
  const std::size_t rows = stream.pending.size() / stream.row_bytes;
  Chunk chunk{place, tensor, stream.submitted, rows, std::move(stream.pending)};
  const bool taken = take(chunk);
  stream.pending = taken ? std::vector<std::byte>() : std::move(chunk.bytes);
  if (taken) stream.submitted += rows;
  return taken;
}

std::int32_t RequestRecording::final_length() const {
  const std::int32_t length = std::min(cut_, static_cast<std::int32_t>(token_ids_.size()));
  return length < info_.prompt_length ? 0 : length;
}

SequenceEnd RequestRecording::finish(const Take& take, const std::function<std::int32_t(std::int32_t)>& hide_token) {
  SequenceEnd end;
  end.info = std::move(info_);
  end.info.length = std::min(cut_, static_cast<std::int32_t>(token_ids_.size()));
  const auto length = static_cast<std::size_t>(end.info.length);
  end.info.positions.resize(length);
  std::iota(end.info.positions.begin(), end.info.positions.end(), 0);
  for (auto& [kind, spans] : end.info.spans) {
    std::erase_if(spans, [&end](const Span& span) { return span.last > end.info.length; });
  }
  end.token_ids.resize(length);
  std::transform(token_ids_.begin(), token_ids_.begin() + end.info.length, end.token_ids.begin(), hide_token);
  end.channels = channels_.finish(end.info.length);
  for (std::size_t place = 0; place < query_rows_.size(); ++place) {
    std::vector<std::int32_t>& queries = query_rows_[place];
    queries.erase(std::lower_bound(queries.begin(), queries.end(), end.info.length), queries.end());
    for (const LayerTensor tensor : layer_tensors) {
      Stream& last = stream(place, tensor);
      const std::size_t wanted = tensor == LayerTensor::query ? queries.size() : length;
      const std::size_t rows = std::min(last.rows(), wanted);
      if (rows <= last.submitted) continue;
      last.pending.resize((rows - last.submitted) * last.row_bytes);
      Chunk chunk{place, tensor, last.submitted, rows - last.submitted, std::move(last.pending)};
      chunk.bytes.resize(last.chunk_rows * last.row_bytes);
      take(chunk);
    }
  }
  end.query_rows = std::move(query_rows_);
  return end;
}

}  // namespace evictsim::traces::capture
