#include "traces/capture/sink/recording.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <numeric>
#include <utility>

namespace evictsim::traces::capture {
namespace {

constexpr std::array layer_tensors = {LayerTensor::key, LayerTensor::value, LayerTensor::query, LayerTensor::hidden};

const char* name_of(Pass pass) {
  constexpr std::array<const char*, pass_count> names = {
      "the sequence",        "the second pass",         "the documents between boundaries", "what stands behind them",
      "the documents alone", "what stands behind them",
  };
  return names[static_cast<std::size_t>(pass)];
}

}  // namespace

std::optional<std::optional<std::size_t>> RequestDescription::rows_of(Pass pass) const {
  if (pass == Pass::second) {
    if (!second_pass) return std::nullopt;
    return second_pass->positions.size();
  }
  const PacketSet set = set_of(pass);
  const std::optional<Packets>& documents = packets[static_cast<std::size_t>(set)];
  if (!documents) return std::nullopt;
  if (is_behind(pass)) return std::optional<std::size_t>();
  return static_cast<std::size_t>(total_rows(*documents));
}

RequestRecording::RequestRecording(std::string request_id, RequestDescription description, const ModelRecord& model,
                                   const CaptureOptions& options)
    : model_(&model), options_(&options), description_(std::move(description)), channels_(model, options) {
  info_ = std::move(description_.info);
  info_.request_id = std::move(request_id);
  const std::size_t layers = model.stored.layers.size();
  query_rows_.resize(layers);
  for (std::size_t place = 0; place < layers; ++place) {
    for (const LayerTensor tensor : layer_tensors) {
      streams_.emplace_back(DatasetPlace{Pass::sequence, place, tensor}, model.stored, options.type);
    }
  }
  for (const Pass beside : passes_beside) {
    if (const auto rows = description_.rows_of(beside)) {
      passes_.emplace(beside, PassRecording(beside, *rows, model, options));
    }
  }
}

std::size_t RequestRecording::most_pending_bytes(const RequestDescription& description, const ModelRecord& model,
                                                 const CaptureOptions& options) {
  std::size_t bytes = 0;
  for (const LayerTensor tensor : layer_tensors) {
    if (tensor == LayerTensor::hidden && !options.hidden) continue;
    bytes += ChunkStream::chunk_bytes(tensor, model.stored, options.type) * model.stored.layers.size();
  }
  for (const Pass beside : passes_beside) {
    if (description.rows_of(beside)) bytes += PassRecording::most_pending_bytes(model, options);
  }
  return bytes;
}

void RequestRecording::add_tokens(std::span<const std::int32_t> tokens) {
  token_ids_.insert(token_ids_.end(), tokens.begin(), tokens.end());
}

void RequestRecording::lose(std::int32_t token, const std::string& reason) {
  if (token >= cut_) return;
  cut_ = token;
  last_loss_ = fmt::format("request {} from token {} on: {}", request_id(), token, reason);
}

PassRecording& RequestRecording::pass(Pass pass) {
  const auto place = passes_.find(pass);
  if (place != passes_.end()) return place->second;
  throw Error(ErrorCode::invalid_argument, "this pass was not announced before the request's first step",
              {.file = {}, .dataset = fmt::format("request {}", request_id()), .parameter = "pass", .value = {}});
}

void RequestRecording::lose(Pass pass, const std::string& reason) {
  PassRecording& lost = this->pass(pass);
  if (lost.is_lost()) return;
  lost.lose();
  last_loss_ = fmt::format("request {}, {}: {}", request_id(), name_of(pass), reason);
}

bool RequestRecording::append(std::size_t place, LayerTensor tensor, std::span<const std::int32_t> tokens,
                              std::span<const std::byte> bytes, TensorType type, const TakeChunk& take) {
  ChunkStream& target = stream(place, tensor);
  const auto usable = static_cast<std::size_t>(std::lower_bound(tokens.begin(), tokens.end(), cut_) - tokens.begin());
  tokens = tokens.first(usable);
  if (tokens.empty()) return true;
  const std::size_t before = target.rows();
  const int layer = model_->stored.layers[place];
  if (tensor == LayerTensor::query) {
    query_rows_[place].insert(query_rows_[place].end(), tokens.begin(), tokens.end());
  } else if (static_cast<std::size_t>(tokens.front()) != before) {
    lose(static_cast<std::int32_t>(before),
         fmt::format("layer {}: {} was not pushed in every step", layer, to_string(tensor)));
    return true;
  }
  const ChunkStream::Outcome outcome = target.append(bytes.data(), type, tokens.size(), take, scratch_);
  if (outcome == ChunkStream::Outcome::stored) return true;
  const bool full = outcome == ChunkStream::Outcome::no_room;
  lose(tokens[target.rows() - before],
       full ? "the writers' queue was full" : bad_value_text(tensor, layer, options_->type));
  return full;
}

bool RequestRecording::append(Pass pass, std::size_t place, LayerTensor tensor, std::span<const std::int32_t> rows,
                              std::span<const std::byte> bytes, TensorType type, const TakeChunk& take) {
  PassRecording& target = this->pass(pass);
  const std::optional<PassLoss> loss =
      target.append(place, tensor, static_cast<std::size_t>(rows.front()), rows.size(), bytes, type, take, scratch_);
  if (!loss) return true;
  lose(pass, loss->reason);
  return !loss->bad_value;
}

std::int32_t RequestRecording::final_length() const {
  const std::int32_t length = std::min(cut_, static_cast<std::int32_t>(token_ids_.size()));
  return length < info_.prompt_length ? 0 : length;
}

SequenceEnd RequestRecording::finish(const TakeChunk& take, const std::function<std::int32_t(std::int32_t)>& hide_token,
                                     const std::function<std::string(std::int32_t)>& token_text) {
  SequenceEnd end;
  end.info = info_;
  end.info.length = std::min(cut_, static_cast<std::int32_t>(token_ids_.size()));
  const auto length = static_cast<std::size_t>(end.info.length);
  end.info.positions.resize(length);
  std::iota(end.info.positions.begin(), end.info.positions.end(), 0);
  for (auto& [kind, spans] : end.info.spans) {
    std::erase_if(spans, [&end](const Span& span) { return span.last > end.info.length; });
  }
  end.token_ids.resize(length);
  std::transform(token_ids_.begin(), token_ids_.begin() + end.info.length, end.token_ids.begin(), hide_token);
  if (token_text) {
    std::vector<std::string>& texts = end.info.token_texts.emplace();
    std::transform(token_ids_.begin(), token_ids_.begin() + end.info.length, std::back_inserter(texts), token_text);
  }
  end.channels = channels_.finish(end.info.length);
  for (std::size_t place = 0; place < query_rows_.size(); ++place) {
    std::vector<std::int32_t>& queries = query_rows_[place];
    queries.erase(std::lower_bound(queries.begin(), queries.end(), end.info.length), queries.end());
    for (const LayerTensor tensor : layer_tensors) {
      stream(place, tensor).finish(tensor == LayerTensor::query ? queries.size() : length, take);
    }
  }
  end.query_rows = std::move(query_rows_);
  finish_passes(end, take);
  return end;
}

/// Decides which passes beside the sequence are whole, now that its length is known.
void RequestRecording::finish_passes(SequenceEnd& end, const TakeChunk& take) {
  const auto conclude = [&](Pass beside, std::size_t rows, const std::string& broken) {
    PassRecording& recording = pass(beside);
    if (!broken.empty()) lose(beside, broken);
    if (!recording.has(rows)) lose(beside, "its rows did not all come");
    if (recording.is_lost()) {
      ++end.lost_passes;
      return false;
    }
    recording.finish(rows, take);
    end.pass_rows[static_cast<std::size_t>(beside)] = rows;
    return true;
  };
  if (std::optional<SecondPass>& second = description_.second_pass) {
    const bool inside = std::all_of(second->chunk.begin(), second->chunk.end(),
                                    [&end](const Span& span) { return span.last <= end.info.length; });
    const std::string broken = inside ? "" : "a row may see tokens that the sequence does not have";
    if (conclude(Pass::second, second->positions.size(), broken)) end.second_pass = std::move(second);
  }
  for (const PacketSet set : packet_sets) {
    std::optional<Packets>& packets = description_.packets[static_cast<std::size_t>(set)];
    if (!packets) continue;
    const std::int32_t documents_end = packets->back().document.last;
    const std::string broken = documents_end <= end.info.prompt_length ? "" : "a document leaves the prompt";
    const auto rows = static_cast<std::size_t>(total_rows(*packets));
    const bool wrapped = set == PacketSet::wrapped;
    if (!conclude(wrapped ? Pass::wrapped : Pass::bare, rows, broken)) continue;
    const Pass behind = wrapped ? Pass::behind_wrapped : Pass::behind_bare;
    if (!pass(behind).is_empty()) conclude(behind, static_cast<std::size_t>(end.info.length - documents_end), "");
    end.packets[static_cast<std::size_t>(set)] = std::move(packets);
  }
}

}  // namespace evictsim::traces::capture
