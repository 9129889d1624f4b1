// What happens to tensors: checking, sampling, copying, and entering rows into the recordings of their requests.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <exception>
#include <utility>

#include "traces/capture/sink/sink.h"

namespace evictsim::traces::capture {
namespace {

constexpr std::array<const char*, role_count> role_names = {
    "q",           "k",       "v",         "x",         "after_attention", "logits",        "entropy",
    "entropy_top", "logprob", "step_norm", "cos_final", "cos_attention",   "residual_norm", "final_norm_input",
};

const char* name_of(Role role) { return role_names[static_cast<std::size_t>(role)]; }

bool has_heads(Role role) { return role == Role::query || role == Role::key || role == Role::value; }

/// Roles that are pushed once per step, not per layer.
bool is_global(Role role) {
  return role == Role::logits || role == Role::entropy || role == Role::entropy_top || role == Role::logprob ||
         role == Role::final_norm_input;
}

/// Weights arrive as float32, whatever the engine holds; one that is not dense is gathered.
std::vector<float> read_weight(const DLTensor* tensor, const char* name, const std::vector<std::size_t>& shape) {
  const auto width = static_cast<std::int64_t>(shape.back());
  const bool matrix = shape.size() == 2;
  // A vector is one row: its tensor has no row axis, so it is read as rows of one element.
  const TensorRows rows = read_tensor_rows(tensor, name, false, 1, matrix ? width : 0);
  if (rows.on_device) {
    throw Error(ErrorCode::unsupported, "a weight must be in host memory; it is handed over once",
                {.file = {}, .dataset = {}, .parameter = name, .value = {}});
  }
  const auto wanted = static_cast<std::int64_t>(shape.front());
  if (rows.rows() != wanted || rows.batches != 1) {
    throw Error(
        ErrorCode::wrong_shape,
        matrix ? fmt::format("must have shape [{}, {}]", wanted, width) : fmt::format("must have shape [{}]", wanted),
        {.file = {}, .dataset = {}, .parameter = name, .value = {}});
  }
  std::vector<std::int64_t> source(static_cast<std::size_t>(wanted));
  for (std::size_t row = 0; row < source.size(); ++row) source[row] = static_cast<std::int64_t>(row);
  std::vector<std::byte> scratch;
  std::vector<float> values;
  widen_rows(gather_rows(rows, source, {}, scratch), gathered_type(rows.type), values);
  return values;
}

/// The columns of W_O that belong to `heads`.
std::vector<float> keep_columns(const std::vector<float>& matrix, std::size_t columns,
                                const std::vector<std::int32_t>& heads, std::size_t width) {
  std::vector<float> kept;
  for (std::size_t row = 0; row < matrix.size(); row += columns) {
    for (const std::int32_t head : heads) {
      const auto first = matrix.begin() + static_cast<std::ptrdiff_t>(row + static_cast<std::size_t>(head) * width);
      kept.insert(kept.end(), first, first + static_cast<std::ptrdiff_t>(width));
    }
  }
  return kept;
}

}  // namespace

void Sink::add_weight(const DLTensor* tensor, std::int32_t weight, std::int32_t layer) {
  const std::lock_guard lock(mutex_);
  require_model();
  if (has_begun_) throw WrongOrder("weights come before the first step");
  const auto hidden = static_cast<std::size_t>(model_.pushed.hidden_size);
  const auto width = static_cast<std::size_t>(model_.pushed.head_dim);
  const std::size_t columns = static_cast<std::size_t>(model_.pushed.num_query_heads) * width;
  if (weight == EVICTSIM_CAPTURE_UNEMBEDDING) {
    const auto vocabulary = static_cast<std::size_t>(model_.pushed.vocab_size);
    return weights_->add(ModelTensor::unembedding, read_weight(tensor, "unembedding", {vocabulary, hidden}));
  }
  if (weight == EVICTSIM_CAPTURE_FINAL_NORM) {
    return weights_->add(ModelTensor::final_norm, read_weight(tensor, "final_norm", {hidden}));
  }
  constexpr std::array kinds = {LayerWeight::w_o, LayerWeight::input_norm, LayerWeight::output_norm};
  if (weight < 0 || static_cast<std::size_t>(weight) >= kinds.size()) {
    throw Error(ErrorCode::invalid_argument, "there is no such weight",
                {.file = {}, .dataset = {}, .parameter = "weight", .value = std::to_string(weight)});
  }
  if (layer < 0 || layer >= model_.pushed.num_layers) {
    throw Error(ErrorCode::invalid_argument, "must be a layer of the model",
                {.file = {}, .dataset = {}, .parameter = "layer", .value = std::to_string(layer)});
  }
  if (model_.place_of(layer) < 0) return;
  const LayerWeight kind = kinds[static_cast<std::size_t>(weight)];
  if (kind != LayerWeight::w_o) return weights_->add(layer, kind, read_weight(tensor, to_string(kind), {hidden}));
  std::vector<float> values = read_weight(tensor, "w_o", {hidden, columns});
  if (!model_.query_heads.empty()) values = keep_columns(values, columns, model_.query_heads, width);
  weights_->add(layer, kind, values);
}

std::size_t Sink::push_slot(Role role, int layer) const {
  return static_cast<std::size_t>(role) * static_cast<std::size_t>(model_.pushed.num_layers + 1) +
         static_cast<std::size_t>(is_global(role) ? 0 : layer);
}

bool Sink::is_pushed(Role role, int layer) const { return step_.pushed[push_slot(role, layer)]; }

const std::shared_ptr<RowMap>& Sink::rows_for(Role role, int layer) const {
  const std::vector<int>& full = options_.full_query_layers;
  const bool sampled = role == Role::query && !std::binary_search(full.begin(), full.end(), layer);
  return sampled ? step_.queries : step_.rows;
}

/// Whether anything of such a tensor is recorded.
bool Sink::is_wanted(Role role, int layer) const {
  const auto channel = [&](Role of) { return options_.channels[static_cast<std::size_t>(of)]; };
  const bool captured = model_.place_of(layer) >= 0;
  if (step_.open && step_.rows->pass != Pass::sequence) return captured && pass_takes(step_.rows->pass, role);
  switch (role) {
    case Role::query:
    case Role::key:
    case Role::value:
      return captured;
    case Role::hidden:
      return (captured && (options_.hidden || channel(Role::residual_norm) || channel(Role::cos_attention))) ||
             (model_.place_of(layer - 1) >= 0 && (channel(Role::step_norm) || channel(Role::cos_final))) ||
             (layer == model_.pushed.num_layers && (channel(Role::final_norm_input) || channel(Role::cos_final)));
    case Role::after_attention:
      return captured && channel(Role::cos_attention);
    case Role::logits:
      return channel(Role::entropy) || channel(Role::entropy_top) || channel(Role::logprob);
    default:
      return channel(role) && (captured || is_global(role));
  }
}

TensorRows Sink::read(const DLTensor* tensor, Role role) const {
  const Header& model = model_.pushed;
  std::int64_t width = 0;
  if (has_heads(role)) width = model.head_dim;
  if (role == Role::hidden || role == Role::after_attention) width = model.hidden_size;
  if (role == Role::logits) width = model.vocab_size;
  if (role == Role::entropy_top) width = entropy_tops.size();
  return read_tensor_rows(tensor, name_of(role), has_heads(role),
                          role == Role::query ? model.num_query_heads : model.num_kv_heads, width);
}

void Sink::push(const DLTensor* tensor, std::int32_t role_number, std::int32_t layer, void* stream) {
  const auto start = std::chrono::steady_clock::now();
  std::unique_lock lock(mutex_);
  require_model();
  if (!step_.open && graph_ == 0) throw WrongOrder("begin_step must come first");
  const auto wrong = [](const char* parameter, std::int32_t value, const std::string& rule) {
    return Error(ErrorCode::invalid_argument, rule,
                 {.file = {}, .dataset = {}, .parameter = parameter, .value = std::to_string(value)});
  };
  if (role_number < 0 || role_number >= role_count) throw wrong("role", role_number, "there is no such role");
  const auto role = static_cast<Role>(role_number);
  const int layers = model_.pushed.num_layers + (role == Role::hidden ? 1 : 0);
  if (!is_global(role) && (layer < 0 || layer >= layers)) {
    throw wrong("layer", layer, fmt::format("must lie between 0 and {}", layers - 1));
  }
  if (!is_wanted(role, layer)) return;
  const TensorRows rows = read(tensor, role);
  if (graph_ != 0) {
    if (!rows.on_device) {
      throw Error(ErrorCode::unsupported, "a tensor inside a CUDA graph must be in device memory",
                  {.file = {}, .dataset = {}, .parameter = name_of(role), .value = {}});
    }
    return add_to_graph(lock, *tensor, role, layer, stream);
  }
  const std::shared_ptr<RowMap>& wanted = rows_for(role, layer);
  if (is_pushed(role, layer)) {
    throw WrongOrder(fmt::format("layer {}: {} was pushed before in this step", layer, name_of(role)));
  }
  const std::int64_t needed = step_.rows->source.empty() ? 0 : step_.rows->source.back() + 1;
  if (rows.rows() < needed) {
    throw Error(ErrorCode::wrong_shape, fmt::format("must have at least the {} rows that begin_step named", needed),
                {.file = {}, .dataset = {}, .parameter = name_of(role), .value = fmt::format("{} rows", rows.rows())});
  }
  if (rows.on_device) device_copier();  // a build or machine without one has not taken the tensor
  step_.pushed[push_slot(role, layer)] = true;
  if (wanted->source.empty()) return;
  RowSelection selection{role, layer, wanted, {}, Measure::rows};
  if (has_heads(role)) selection.heads = role == Role::query ? model_.query_heads : model_.kv_heads;
  has_bad_value_ = false;
  if (rows.on_device) {
    start_copy(lock, *tensor, std::move(selection), stream);
  } else {
    const std::span<const std::byte> bytes = gather_rows(rows, wanted->source, selection.heads, gathered_);
    const std::size_t width = static_cast<std::size_t>(rows.width) *
                              (selection.heads.empty() ? static_cast<std::size_t>(rows.heads) : selection.heads.size());
    take({role, layer, gathered_type(rows.type), width, wanted, bytes});
  }
  count_call(start);
  require_sound();
  if (std::exchange(has_bad_value_, false)) {
    throw Error(ErrorCode::invalid_value, last_loss_,
                {.file = {}, .dataset = {}, .parameter = name_of(role), .value = {}});
  }
}

DeviceCopier& Sink::device_copier() {
  if (!copier_) {
    constexpr std::array compared = {Role::step_norm, Role::cos_attention, Role::cos_final};
    const bool compares = std::any_of(compared.begin(), compared.end(), [this](Role channel) {
      return options_.channels[static_cast<std::size_t>(channel)];
    });
    copier_ = make_device_copier(*this, {.ring_bytes = options_.device_ring_bytes,
                                         .drop = options_.drop,
                                         .type = options_.type,
                                         .graph_ring_bytes = options_.graph_ring_bytes,
                                         .history_bytes = compares ? options_.device_history_bytes : 0});
  }
  return *copier_;
}

/// What the device path is asked for, for one pushed tensor.
std::vector<RowSelection> Sink::device_selections(RowSelection selection) const {
  std::vector<RowSelection> selections;
  const auto channel = [&](Role of) { return options_.channels[static_cast<std::size_t>(of)]; };
  const auto add = [&](Measure measure, int layer) {
    selections.push_back(selection);
    selections.back().measure = measure;
    selections.back().layer = layer;
  };
  const int layer = selection.layer;
  if (selection.role == Role::after_attention) {
    add(Measure::attention_cosine, layer);
  } else if (selection.role != Role::hidden) {
    selections.push_back(std::move(selection));
  } else {
    const bool captured = model_.place_of(layer) >= 0, is_output = model_.place_of(layer - 1) >= 0;
    const bool final = layer == model_.pushed.num_layers;
    if ((captured && channel(Role::residual_norm)) || (final && channel(Role::final_norm_input))) {
      add(Measure::norm, layer);
    }
    if (captured && options_.hidden) add(Measure::rows, layer);
    if (captured && channel(Role::cos_attention)) add(Measure::hold_for_attention, layer);
    if (is_output && channel(Role::step_norm)) add(Measure::step, layer - 1);
    if (is_output && channel(Role::cos_final)) add(Measure::hold_for_final, layer - 1);
    if (final && channel(Role::cos_final)) {
      for (const int of : model_.stored.layers) add(Measure::final_cosine, of);
    }
  }
  return selections;
}

/// Requests do not end before what they wait for has come.
void Sink::expect_rows(const RowSelection& wanted) {
  if (is_hold(wanted.measure)) return;
  std::uint64_t last = 0;
  bool any = false;
  for (const RowOrigin& origin : wanted.rows->origin) {
    if (std::exchange(any, true) && origin.request == last) continue;
    last = origin.request;
    // Logits come back as two batches.
    if (Request* request = find(origin.request)) request->on_their_way += wanted.role == Role::logits ? 2 : 1;
  }
}

void Sink::start_copy(std::unique_lock<std::mutex>& lock, const DLTensor& tensor, RowSelection selection,
                      void* stream) {
  DeviceCopier& copier = device_copier();
  const std::vector<RowSelection> selections = device_selections(std::move(selection));
  for (const RowSelection& wanted : selections) expect_rows(wanted);
  // What has been copied before arrives through receive(), which takes the lock; a full ring waits for that.
  lock.unlock();
  std::exception_ptr failure;
  for (const RowSelection& wanted : selections) {
    try {
      if (!failure) copier.copy(tensor, wanted, stream);
    } catch (...) {
      failure = std::current_exception();
    }
    if (failure && !is_hold(wanted.measure)) dropped(wanted);
  }
  lock.lock();
  if (failure) std::rethrow_exception(failure);
}

void Sink::receive(const RowBatch& batch) {
  const std::lock_guard lock(mutex_);
  take(batch);
  arrived(*batch.rows);
}

void Sink::dropped(const RowSelection& selection) {
  const std::lock_guard lock(mutex_);
  const bool needed =
      has_heads(selection.role) || (selection.role == Role::hidden && selection.measure == Measure::rows);
  for (const RowOrigin& origin : selection.rows->origin) {
    Request* request = find(origin.request);
    // A channel that misses rows is left out of the trace; the sequence is whole without it.
    if (request == nullptr || !needed) continue;
    constexpr const char* reason = "the device path had no room for its rows or failed";
    if (const Pass pass = selection.rows->pass; pass != Pass::sequence) {
      request->recording->lose(pass, reason);
    } else {
      request->recording->lose(origin.token, reason);
    }
  }
  arrived(*selection.rows);
  if (selection.role == Role::logits) arrived(*selection.rows);
}

void Sink::failed(const Error& error) { pool_->fail(error); }

/// One batch of these rows has come or never will.
void Sink::arrived(const RowMap& rows) {
  std::uint64_t last = 0;
  bool any = false;
  for (const RowOrigin& origin : rows.origin) {
    if (std::exchange(any, true) && origin.request == last) continue;
    last = origin.request;
    Request* request = find(origin.request);
    if (request == nullptr || --request->on_their_way > 0 || !request->finished) continue;
    end_request(*request);
    std::erase_if(ending_, [request](const std::unique_ptr<Request>& entry) { return entry.get() == request; });
  }
}

/// Gives each request its rows.
void Sink::take(const RowBatch& batch) {
  const std::vector<RowOrigin>& origin = batch.rows->origin;
  const std::size_t row_bytes = batch.width * hdf5::element_size(batch.type);
  counters_.pushed_bytes += origin.size() * row_bytes;
  credit_ -= static_cast<double>(origin.size() * row_bytes);
  for (std::size_t first = 0; first < origin.size();) {
    std::size_t end = first;
    tokens_.clear();
    for (; end < origin.size() && origin[end].request == origin[first].request; ++end) {
      tokens_.push_back(origin[end].token);
    }
    Request* request = find(origin[first].request);
    if (request != nullptr) {
      take_rows(*request, batch, tokens_, batch.bytes.subspan(first * row_bytes, (end - first) * row_bytes));
    }
    first = end;
  }
}

void Sink::take_rows(Request& request, const RowBatch& batch, std::span<const std::int32_t> tokens,
                     std::span<const std::byte> bytes) {
  if (batch.rows->pass != Pass::sequence) return take_pass_rows(request, batch, tokens, bytes);
  RequestRecording& recording = *request.recording;
  if (recording.is_cut_at(tokens.front())) return;
  const int captured = model_.place_of(batch.layer);
  const auto place = static_cast<std::size_t>(std::max(captured, 0));
  const auto append = [&](LayerTensor tensor) {
    const bool stored = recording.append(place, tensor, tokens, bytes, batch.type,
                                         [&](Chunk& chunk) { return take_chunk(request, chunk); });
    if (!stored) {
      has_bad_value_ = true;
      last_loss_ = recording.last_loss();
    }
  };
  switch (batch.role) {
    case Role::query:
      return append(LayerTensor::query);
    case Role::key:
      return append(LayerTensor::key);
    case Role::value:
      return append(LayerTensor::value);
    default:
      break;
  }
  if (batch.role == Role::hidden && options_.hidden && captured >= 0) append(LayerTensor::hidden);
  TokenChannels& channels = recording.channels();
  if (batch.role == Role::logits) {
    // A few rows at a time: logits of a long prompt as float32 would be gigabytes.
    constexpr std::size_t block = 16;
    const std::size_t row_bytes = bytes.size() / tokens.size();
    for (std::size_t first = 0; first < tokens.size(); first += block) {
      const std::size_t count = std::min(block, tokens.size() - first);
      widen_rows(bytes.subspan(first * row_bytes, count * row_bytes), batch.type, floats_);
      channels.add_logits(tokens[first], floats_, recording.token_ids(), reducer_);
    }
    return;
  }
  const bool only_stored =
      batch.role == Role::hidden &&
      std::none_of(options_.channels.begin(), options_.channels.end(), [](bool wanted) { return wanted; });
  if (only_stored) return;
  widen_rows(bytes, batch.type, floats_);
  if (batch.role == Role::hidden) return channels.add_hidden(batch.layer, tokens.front(), floats_);
  if (batch.role == Role::after_attention) return channels.add_after_attention(place, tokens.front(), floats_);
  const bool final = batch.role == Role::residual_norm && batch.layer == model_.pushed.num_layers;
  channels.add_values(final ? Role::final_norm_input : batch.role, place, tokens.front(), floats_);
}

bool Sink::take_chunk(Request& request, Chunk& chunk) {
  if (!pool_->has_room(chunk.bytes.size())) {
    if (options_.drop) return false;
    ++counters_.waits;
    counters_.wait_seconds += pool_->wait_for_room(chunk.bytes.size());
  }
  request.writer->write(std::move(chunk));
  return true;
}

}  // namespace evictsim::traces::capture
