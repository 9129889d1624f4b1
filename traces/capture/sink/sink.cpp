// The life of a capture: model, requests and steps. What happens to rows is in sink_rows.cpp.
#include "traces/capture/sink/sink.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "traces/capture/sink/text_fields.h"
#include "traces/capture/spans.h"
#include "traces/trace_file.h"

namespace evictsim::traces::capture {
namespace {

std::string now() {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}",
                     fmt::gmtime(std::chrono::system_clock::to_time_t(std::chrono::system_clock::now())));
}

Error bad_range(const evictsim_capture_rows& range, const std::string& rule) {
  const std::string name = range.request_id == nullptr ? "" : fmt::format("request {}", range.request_id);
  return {ErrorCode::invalid_argument, rule, {.file = {}, .dataset = name, .parameter = {}, .value = {}}};
}

}  // namespace

Sink::Sink(const std::filesystem::path& directory, CaptureOptions options)
    : options_(std::move(options)), directory_(directory, options_) {
  if (options_.store_text) token_text_ = options_.token_text;
  pool_ = std::make_unique<WriterPool>(options_.threads, options_.queue_bytes, [this] {
    // Waiting for the lock would stop a writer that its holder may wait for.
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (lock.owns_lock() && shards_) shards_->rotate_when_old();
  });
}

Sink::~Sink() {
  // Rows that still come look for it while it goes.
  std::unique_ptr<DeviceCopier> copier;
  {
    const std::lock_guard lock(mutex_);
    copier = std::move(copier_);
  }
  copier.reset();
  by_number_.clear();
  requests_.clear();
  ending_.clear();
  pool_.reset();
  shards_.reset();
}

void Sink::require_sound() const {
  if (const auto failure = pool_->failure()) throw *failure;
}

void Sink::require_model() const {
  require_sound();
  if (!has_model_) throw WrongOrder("the model record must come first");
}

void Sink::set_model(const char* attributes) {
  const std::lock_guard lock(mutex_);
  take_model(parse_model_record(attributes, options_));
}

void Sink::set_model(Header header) {
  const std::lock_guard lock(mutex_);
  take_model(make_model_record(std::move(header), options_));
}

void Sink::take_model(ModelRecord record) {
  require_sound();
  if (has_model_) throw WrongOrder("the model record was given before");
  record.stored.created = now();
  auto& extra = record.stored.extra;
  extra["capture_token_ids"] = options_.hash_token_ids ? "hashed" : "plain";
  extra["capture_every"] = std::to_string(options_.every);
  require_valid(record.pushed, "");
  require_valid(record.stored, "");
  model_ = std::move(record);
  weights_ = std::make_unique<WeightStore>(directory_.weights(), model_.stored, options_.type, !options_.single_file);
  if (options_.hash_token_ids) cipher_ = std::make_unique<TokenCipher>(options_.token_key, model_.pushed.vocab_size);
  shards_ = std::make_unique<ShardSet>(directory_, *pool_, options_, model_.stored, weights_.get());
  has_model_ = true;
}

void Sink::add_setting(const std::string& name, const std::string& value) {
  const std::lock_guard lock(mutex_);
  require_model();
  if (has_begun_) throw WrongOrder("settings come before the first step");
  constexpr std::string_view prefix = "capture_";
  if (!name.starts_with(prefix) || name.size() == prefix.size()) {
    throw Error(ErrorCode::invalid_argument, "must be called capture_ and something",
                {.file = {}, .dataset = {}, .parameter = "name", .value = name});
  }
  model_.stored.extra[name] = value;
}

void Sink::set_vocabulary(std::vector<std::string> texts) {
  const std::lock_guard lock(mutex_);
  require_model();
  if (has_begun_) throw WrongOrder("the vocabulary comes before the first step");
  if (texts.size() > static_cast<std::size_t>(model_.pushed.vocab_size)) {
    throw Error(ErrorCode::invalid_argument,
                fmt::format("must be at most the {} of vocab_size", model_.pushed.vocab_size),
                {.file = {}, .dataset = {}, .parameter = "tokens", .value = std::to_string(texts.size())});
  }
  if (!options_.store_text) return;
  token_text_ = [texts = std::move(texts)](std::int32_t token) {
    const auto place = static_cast<std::size_t>(token);
    return place < texts.size() ? texts[place] : std::string();
  };
}

/// Of a request whose first step has not come.
RequestDescription& Sink::description_of(const std::string& request_id) {
  require_model();
  if (requests_.contains(request_id)) throw WrongOrder("a request is described before its first step");
  return descriptions_[request_id];
}

void Sink::describe_request(const std::string& request_id, const char* attributes, const char* text) {
  SequenceInfo info;
  for (const TextField& field : parse_fields(attributes)) {
    if (field.name == "task") {
      info.task = field.value;
    } else if (field.name == "span") {
      const SpanRequest span = parse_span(field.value);
      if (!span.snippet.empty()) throw field.wrong("must be KIND=tokens:FIRST:END here; the sink knows no text");
      if (span.tokens.first < 0 || span.tokens.first > span.tokens.last)
        throw field.wrong("must not end before it begins");
      info.spans[span.kind].push_back(span.tokens);
    } else {
      throw field.wrong("there is no such attribute of a request; there are task and span");
    }
  }
  if (text != nullptr) info.text = text;
  describe_request(request_id, std::move(info));
}

void Sink::describe_request(const std::string& request_id, SequenceInfo info) {
  const std::lock_guard lock(mutex_);
  RequestDescription& description = description_of(request_id);
  description.info = {};
  description.info.task = std::move(info.task);
  description.info.spans = std::move(info.spans);
  if (options_.store_text) description.info.text = std::move(info.text);
}

/// Which rows the ranges of a step name.
void Sink::check_places(std::span<const evictsim_capture_rows> ranges) const {
  std::vector<std::pair<std::int64_t, std::int64_t>> places;
  std::vector<std::string> names;
  constexpr std::int64_t most = std::int64_t{1} << 31;
  for (const evictsim_capture_rows& range : ranges) {
    if (range.request_id == nullptr) throw bad_range(range, "request_id must not be null");
    if (range.first_row < 0 || range.count < 0 || range.first_position < 0 || range.prompt_length < 0) {
      throw bad_range(range, "first_row, count, first_position and prompt_length must not be negative");
    }
    if (range.first_row >= most || range.count >= most || range.first_position + range.count >= most) {
      throw bad_range(range, "has more rows than a sequence can have");
    }
    if (range.count > 0) places.emplace_back(range.first_row, range.first_row + range.count);
    names.emplace_back(range.request_id);
  }
  std::sort(places.begin(), places.end());
  for (std::size_t i = 1; i < places.size(); ++i) {
    if (places[i].first < places[i - 1].second) {
      throw Error(ErrorCode::invalid_argument, "two ranges of a step share rows");
    }
  }
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) {
    throw Error(ErrorCode::invalid_argument, fmt::format("request {} has two ranges in one step", *twice));
  }
}

/// What the ranges say about their tokens.
void Sink::check_tokens(std::span<const evictsim_capture_rows> ranges) const {
  for (const evictsim_capture_rows& range : ranges) {
    if (range.count > 0 && range.token_ids == nullptr) throw bad_range(range, "token_ids must not be null");
    for (std::int64_t i = 0; i < range.count; ++i) {
      if (range.token_ids[i] >= 0 && range.token_ids[i] < model_.pushed.vocab_size) continue;
      throw bad_range(range, fmt::format("token id {} lies outside the vocabulary, 0 to {}", range.token_ids[i],
                                         model_.pushed.vocab_size - 1));
    }
    const auto known = requests_.find(range.request_id);
    const RequestRecording* recording = known == requests_.end() ? nullptr : known->second->recording.get();
    if (recording != nullptr && range.prompt_length != 0 && range.prompt_length != recording->prompt_length()) {
      throw bad_range(range, fmt::format("prompt_length was {} before", recording->prompt_length()));
    }
  }
}

/// Whether a new request is recorded.
bool Sink::admit() {
  const auto index = static_cast<std::int64_t>(next_request_);
  if (index % options_.every != 0) return false;
  if (options_.bytes_per_second == 0) return true;
  const auto time = std::chrono::steady_clock::now();
  const auto rate = static_cast<double>(options_.bytes_per_second);
  // At most a second's worth is saved up; what running requests took beyond it is paid back first.
  credit_ = std::min(rate, credit_ + rate * std::chrono::duration<double>(time - credited_).count());
  credited_ = time;
  return credit_ > 0;
}

Sink::Request& Sink::request_of(const evictsim_capture_rows& range) {
  const auto known = requests_.find(range.request_id);
  if (known != requests_.end()) return *known->second;
  auto request = std::make_unique<Request>();
  RequestDescription& description = descriptions_[range.request_id];
  if (admit()) {
    request->writer = shards_->begin_sequence(RequestRecording::most_pending_bytes(description, model_, options_));
  }
  request->number = next_request_++;
  if (request->writer) {
    request->recording = std::make_unique<RequestRecording>(range.request_id, std::move(description), model_, options_);
    request->recording->set_prompt_length(range.prompt_length != 0 ? range.prompt_length
                                                                   : static_cast<std::int32_t>(range.count));
    by_number_[request->number] = request.get();
  } else {
    ++counters_.skipped_requests;
  }
  descriptions_.erase(range.request_id);
  return *(requests_[range.request_id] = std::move(request));
}

/// Enters the new rows of a range into the step's maps.
void Sink::add_rows(Request& request, const evictsim_capture_rows& range) {
  if (!request.recording) return;
  RequestRecording& recording = *request.recording;
  const std::span<const std::int32_t> known = recording.token_ids();
  const auto next = static_cast<std::int32_t>(known.size());
  const std::span<const std::int32_t> ids(range.token_ids, static_cast<std::size_t>(range.count));
  // Rows seen before are passed over when they are the same tokens.
  const auto repeated = static_cast<std::size_t>(std::clamp<std::int64_t>(next - range.first_position, 0, range.count));
  for (std::size_t i = 0; i < repeated; ++i) {
    if (known[static_cast<std::size_t>(range.first_position) + i] == ids[i]) continue;
    recording.lose(range.first_position + static_cast<std::int32_t>(i),
                   "another token came at a position seen before; pass accepted tokens only");
    break;
  }
  const std::int64_t end = range.first_position + range.count;
  const std::int64_t fresh =
      std::max<std::int64_t>(0, end - std::max<std::int64_t>(request.reached, range.first_position));
  request.reached = std::max(request.reached, end);
  request.seen += fresh;
  counters_.rows += static_cast<std::uint64_t>(fresh);
  if (range.first_position > next) {
    recording.lose(next, "its rows did not come; a cached prefix must be computed again to be recorded");
  }
  if (recording.is_cut_at(next)) return;
  recording.add_tokens(ids.subspan(repeated));
  for (std::size_t i = repeated; i < ids.size(); ++i) {
    const std::int64_t row = range.first_row + static_cast<std::int64_t>(i);
    const RowOrigin origin{request.number, range.first_position + static_cast<std::int32_t>(i)};
    step_.rows->source.push_back(row);
    step_.rows->origin.push_back(origin);
    if (!options_.queries.keeps(origin.token, recording.prompt_length())) continue;
    step_.queries->source.push_back(row);
    step_.queries->origin.push_back(origin);
  }
}

void Sink::begin_step(std::span<const evictsim_capture_rows> ranges) {
  const auto start = std::chrono::steady_clock::now();
  const std::lock_guard lock(mutex_);
  require_model();
  if (step_.open) throw WrongOrder("the step before has not ended");
  check_places(ranges);
  check_tokens(ranges);
  has_begun_ = true;
  shards_->rotate_when_old();
  open_step(Pass::sequence);
  std::vector<evictsim_capture_rows> ordered(ranges.begin(), ranges.end());
  std::sort(ordered.begin(), ordered.end(),
            [](const evictsim_capture_rows& a, const evictsim_capture_rows& b) { return a.first_row < b.first_row; });
  // Requests are met in the order of the caller's list: which ones are sampled does not depend on their rows.
  for (const evictsim_capture_rows& range : ranges) request_of(range);
  for (const evictsim_capture_rows& range : ordered) add_rows(request_of(range), range);
  step_.open = true;
  count_call(start);
}

/// Empty maps for a step that begins.
void Sink::open_step(Pass pass) {
  step_.rows = std::make_shared<RowMap>();
  step_.queries = pass == Pass::sequence ? std::make_shared<RowMap>() : step_.rows;
  step_.rows->step = step_.queries->step = step_.number;
  step_.rows->pass = step_.queries->pass = pass;
  step_.pushed.assign(static_cast<std::size_t>(role_count) * static_cast<std::size_t>(model_.pushed.num_layers + 1),
                      false);
}

void Sink::end_step() {
  const std::lock_guard lock(mutex_);
  require_model();
  if (!step_.open) throw WrongOrder("no step has begun");
  close_step();
}

/// Ends the step; what was not pushed is lost.
void Sink::close_step() {
  step_.open = false;
  ++step_.number;
  std::string missing;
  const Pass pass = step_.rows->pass;
  const bool beside = pass != Pass::sequence;
  for (const int layer : model_.stored.layers) {
    const auto require = [&](Role role, LayerTensor tensor) {
      if (beside && !pass_needs(pass, tensor)) return;
      if (missing.empty() && !rows_for(role, layer)->source.empty() && !is_pushed(role, layer)) {
        missing = fmt::format("layer {}: {} was not pushed in this step", layer, to_string(tensor));
      }
    };
    require(Role::key, LayerTensor::key);
    require(Role::value, LayerTensor::value);
    require(Role::query, LayerTensor::query);
    if (options_.hidden && !beside) require(Role::hidden, LayerTensor::hidden);
  }
  if (missing.empty()) return;
  const RowMap& rows = *step_.rows;
  for (std::size_t i = 0; i < rows.origin.size(); ++i) {
    Request* request = find(rows.origin[i].request);
    if (request == nullptr) continue;
    if (beside) {
      request->recording->lose(pass, missing);
    } else {
      request->recording->lose(rows.origin[i].token, missing);
    }
  }
  throw WrongOrder(missing);
}

void Sink::finish_request(const std::string& request_id) {
  const std::lock_guard lock(mutex_);
  conclude(request_id, false);
}

void Sink::discard_request(const std::string& request_id) {
  const std::lock_guard lock(mutex_);
  conclude(request_id, true);
}

void Sink::conclude(const std::string& request_id, bool discard) {
  require_model();
  if (step_.open) throw WrongOrder(discard ? "a request is given up between steps" : "a request ends between steps");
  descriptions_.erase(request_id);
  const auto place = requests_.find(request_id);
  if (place == requests_.end()) return;
  place->second->finished = true;
  place->second->discarded = discard;
  if (place->second->on_their_way == 0) {
    end_request(*place->second);
  } else {
    // A later request of that name is another one, even while rows of this one are on their way.
    ending_.push_back(std::move(place->second));
  }
  requests_.erase(place);
}

void Sink::end_request(Request& request) {
  if (!request.recording) return;
  RequestRecording& recording = *request.recording;
  by_number_.erase(request.number);
  if (copier_) copier_->forget(request.number);
  if (request.discarded) {
    counters_.rows -= static_cast<std::uint64_t>(request.seen);
    ++counters_.skipped_requests;
    request.writer->discard({});
    return;
  }
  const std::int32_t length = recording.final_length();
  Losses losses{.rows = request.seen - length, .requests = length == 0 ? 1 : 0, .last = recording.last_loss()};
  if (length == 0 && losses.last.empty()) {
    losses.last = fmt::format("request {} ended before its prompt did", recording.request_id());
  }
  counters_.dropped_rows += static_cast<std::uint64_t>(losses.rows);
  if (length == 0) {
    ++counters_.dropped_requests;
    request.writer->discard(losses);
  } else {
    ++counters_.requests;
    SequenceWriter& writer = *request.writer;
    SequenceEnd end = recording.finish(
        [&writer](Chunk& chunk) {
          writer.write(std::move(chunk));
          return true;
        },
        [this](std::int32_t token) { return cipher_ ? (*cipher_)(token) : token; }, token_text_);
    losses.passes = end.lost_passes;
    losses.last = recording.last_loss();
    counters_.dropped_passes += static_cast<std::uint64_t>(losses.passes);
    writer.finish(std::move(end), losses);
  }
  if (losses.rows > 0 || losses.passes > 0) last_loss_ = losses.last;
}

void Sink::count_call(std::chrono::steady_clock::time_point start) {
  counters_.call_seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

Sink::Request* Sink::find(std::uint64_t number) {
  const auto place = by_number_.find(number);
  return place == by_number_.end() ? nullptr : place->second;
}

/// Waits for the rows of device tensors. They come through receive(), so the lock must be free.
void Sink::drain() {
  DeviceCopier* copier = nullptr;
  {
    const std::lock_guard lock(mutex_);
    copier = copier_.get();
  }
  if (copier != nullptr) copier->drain();
}

void Sink::flush() {
  {
    const std::lock_guard lock(mutex_);
    require_sound();
  }
  drain();
  {
    const std::lock_guard lock(mutex_);
    if (shards_ && !options_.single_file) shards_->rotate();
  }
  pool_->wait_until_done();
  require_sound();
}

void Sink::close() {
  drain();
  std::string missing;
  {
    const std::lock_guard lock(mutex_);
    try {
      if (step_.open) close_step();
    } catch (const WrongOrder& error) {
      missing = error.what();  // the requests are cut there, and that is all that can be done
    }
    for (const auto& [name, request] : requests_) end_request(*request);
    for (const auto& request : ending_) end_request(*request);
    requests_.clear();
    ending_.clear();
    if (shards_) shards_->rotate();
  }
  pool_->wait_until_done();
  require_sound();
  if (!missing.empty()) throw WrongOrder(missing);
}

evictsim_capture_counters Sink::counters() {
  const std::lock_guard lock(mutex_);
  evictsim_capture_counters counters = counters_;
  if (shards_) {
    counters.written_bytes = shards_->written_bytes();
    counters.shards = shards_->sealed();
  }
  return counters;
}

std::string Sink::last_loss() {
  const std::lock_guard lock(mutex_);
  return last_loss_;
}

}  // namespace evictsim::traces::capture
