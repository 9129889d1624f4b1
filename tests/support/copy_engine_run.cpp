#include "tests/support/copy_engine_run.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>
#include <stdexcept>
#include <thread>
#include <utility>

#include "traces/half.h"

namespace evictsim::tests {

using namespace traces::capture;
using traces::TensorType;

namespace {

Role pushed_role(Role arrived) {
  switch (arrived) {
    case Role::entropy:
    case Role::entropy_top:
      return Role::logits;
    case Role::residual_norm:
    case Role::step_norm:
    case Role::cos_final:
      return Role::hidden;
    case Role::cos_attention:
      return Role::after_attention;
    default:
      return arrived;
  }
}

Measure measure_of(Role arrived) {
  switch (arrived) {
    case Role::residual_norm:
      return Measure::norm;
    case Role::step_norm:
      return Measure::step;
    case Role::cos_final:
      return Measure::final_cosine;
    case Role::cos_attention:
      return Measure::attention_cosine;
    default:
      return Measure::rows;
  }
}

std::string text_of(Role role, int layer, std::uint64_t step) {
  return "role " + std::to_string(static_cast<int>(role)) + ", layer " + std::to_string(layer) + ", step " +
         std::to_string(step);
}

template <typename T>
std::vector<std::byte> bytes_of_values(const std::vector<T>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return {bytes.begin(), bytes.end()};
}

/// Whether numbers are the wanted ones or NaN.
bool same_or_missing(std::span<const std::byte> found, std::span<const std::byte> wanted) {
  if (found.size() != wanted.size()) return false;
  for (std::size_t i = 0; i < found.size(); i += sizeof(float)) {
    float number = 0;
    std::memcpy(&number, found.data() + i, sizeof number);
    if (!std::isnan(number) && std::memcmp(found.data() + i, wanted.data() + i, sizeof number) != 0) return false;
  }
  return true;
}

std::vector<std::byte> stored(const std::vector<float>& values, TensorType type) {
  if (type == TensorType::float32) return bytes_of_values(values);
  std::vector<std::uint16_t> numbers;
  for (const float value : values) {
    numbers.push_back(type == TensorType::float16 ? traces::float_to_half(value) : traces::float_to_bfloat(value));
  }
  return bytes_of_values(numbers);
}

}  // namespace

void ComparingReceiver::expect(const RowSelection& selection, std::vector<std::vector<std::byte>> bytes) {
  const std::scoped_lock lock(mutex_);
  Expected entry;
  entry.bytes = std::move(bytes);
  entry.rows = selection.rows->source.size();
  expected_[{static_cast<int>(selection.role), selection.layer, selection.measure}][selection.rows->step] =
      std::move(entry);
}

void ComparingReceiver::forget(const RowSelection& selection) {
  const std::scoped_lock lock(mutex_);
  expected_[{static_cast<int>(selection.role), selection.layer, selection.measure}].erase(selection.rows->step);
}

void ComparingReceiver::note(const Line& line, std::uint64_t step) {
  const auto [place, first] = latest_.emplace(line, step);
  if (!first && place->second > step) {
    problems_.push_back(text_of(static_cast<Role>(std::get<0>(line)), std::get<1>(line), step) + ": out of order");
  }
  place->second = step;
}

void ComparingReceiver::receive(const RowBatch& batch) {
  const std::scoped_lock lock(mutex_);
  if (throwing_batch_ == batches_++) throw std::runtime_error("the disk is gone");
  const Line line{static_cast<int>(pushed_role(batch.role)), batch.layer, measure_of(batch.role)};
  const std::string name = text_of(batch.role, batch.layer, batch.rows->step);
  note(line, batch.rows->step);
  const auto found = expected_[line].find(batch.rows->step);
  if (found == expected_[line].end() || found->second.batches >= found->second.bytes.size() || found->second.dropped) {
    problems_.push_back(name + ": came unasked or twice");
    return;
  }
  const std::vector<std::byte>& wanted = found->second.bytes[found->second.batches++];
  const bool same = std::equal(batch.bytes.begin(), batch.bytes.end(), wanted.begin(), wanted.end());
  if (!same && !(may_miss_ && batch.role == Role::step_norm && same_or_missing(batch.bytes, wanted))) {
    problems_.push_back(name + ": other bytes");
  }
  if (found->second.batches == found->second.bytes.size()) received_rows_ += found->second.rows;
}

void ComparingReceiver::dropped(const RowSelection& selection) {
  const std::scoped_lock lock(mutex_);
  const Line line{static_cast<int>(selection.role), selection.layer, selection.measure};
  note(line, selection.rows->step);
  const auto found = expected_[line].find(selection.rows->step);
  if (found == expected_[line].end() || found->second.batches > 0 || found->second.dropped) {
    problems_.push_back(text_of(selection.role, selection.layer, selection.rows->step) + ": dropped after it came");
    return;
  }
  found->second.dropped = true;
  dropped_rows_ += found->second.rows;
}

void ComparingReceiver::failed(const Error& error) {
  const std::scoped_lock lock(mutex_);
  failures_.push_back(error.code());
}

std::vector<std::string> ComparingReceiver::problems() const {
  const std::scoped_lock lock(mutex_);
  std::vector<std::string> result = problems_;
  for (const auto& [line, steps] : expected_) {
    for (const auto& [step, entry] : steps) {
      // A batch at which the sink itself threw is neither here nor there.
      if (entry.dropped || entry.batches == entry.bytes.size() || throwing_batch_) continue;
      result.push_back(text_of(static_cast<Role>(std::get<0>(line)), std::get<1>(line), step) + ": lost");
    }
  }
  return result;
}

std::uint64_t ComparingReceiver::received_rows() const {
  const std::scoped_lock lock(mutex_);
  return received_rows_;
}

std::uint64_t ComparingReceiver::dropped_rows() const {
  const std::scoped_lock lock(mutex_);
  return dropped_rows_;
}

std::vector<ErrorCode> ComparingReceiver::failures() const {
  const std::scoped_lock lock(mutex_);
  return failures_;
}

EngineTensor::EngineTensor(CudaDouble& cuda, std::int64_t rows, std::int64_t heads, std::int64_t width)
    : rows_(rows),
      heads_(heads),
      width_(width),
      shape_{rows, heads, width},
      data_(static_cast<float*>(cuda.engine_memory(static_cast<std::size_t>(rows * heads * width) * sizeof(float)))) {}

DLTensor EngineTensor::tensor(bool with_heads) const {
  DLTensor result{};
  result.data = data_;
  result.device = {kDLCUDA, 0};
  result.dtype = {kDLFloat, 32, 1};
  result.ndim = with_heads ? 3 : 2;
  if (!with_heads) shape_[1] = heads_ * width_;
  result.shape = shape_;
  return result;
}

std::vector<std::vector<std::byte>> EngineTensor::expected(const std::vector<float>& values,
                                                           const RowSelection& selection, TensorType type,
                                                           const std::vector<float>* other) const {
  const std::int64_t line = heads_ * width_;
  std::vector<float> rows;
  for (const std::int64_t row : selection.rows->source) {
    for (std::int64_t head = 0; head < (selection.heads.empty() ? heads_ : std::ssize(selection.heads)); ++head) {
      const std::int64_t source = selection.heads.empty() ? head : selection.heads[static_cast<std::size_t>(head)];
      const auto first = values.begin() + row * line + source * width_;
      rows.insert(rows.end(), first, first + width_);
    }
  }
  const auto count = static_cast<std::int64_t>(selection.rows->source.size());
  RowSource source;
  source.data = rows.data();
  source.width = line;
  source.row_stride = line;
  // The reductions are compared with Eigen elsewhere; here it matters that the right rows arrive.
  if (selection.role == Role::logits) {
    std::vector<float> output(selection.rows->source.size() * LogitRows::row_bytes / sizeof(float));
    LogitStatistics job;
    job.source = source;
    job.rows = count;
    job.output.base = reinterpret_cast<unsigned char*>(output.data());
    run_on_host(job);
    return {bytes_of_values(std::vector<float>(output.begin(), output.begin() + count)),
            bytes_of_values(std::vector<float>(output.begin() + count, output.begin() + 4 * count))};
  }
  if (selection.measure != Measure::rows) {
    std::vector<float> output(selection.rows->source.size() * ComparisonRows::row_bytes / sizeof(float));
    RowComparison job;
    job.first = source;
    if (other != nullptr) {
      job.second = source;
      job.second.data = other->data();
    }
    job.rows = count;
    job.output.base = reinterpret_cast<unsigned char*>(output.data());
    run_on_host(job);
    const ComparisonRows result = ComparisonRows::at(output.data(), count);
    const float* const wanted = other == nullptr                     ? result.norm
                                : selection.measure == Measure::step ? result.distance
                                                                     : result.cosine;
    return {bytes_of_values(std::vector<float>(wanted, wanted + count))};
  }
  return {stored(rows, type)};
}

std::vector<float> tensor_values(std::size_t count, std::uint64_t key) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = static_cast<float>((key * 131 + i * 7 + key * i % 13) % 251);
  return values;
}

namespace {

/// One thread of the engine: a stream, layers of its own, and tensor memory that it uses again and again.
class EngineThread {
 public:
  EngineThread(CudaDouble& cuda, CopyEngine& engine, ComparingReceiver& receiver, const RunSettings& settings,
               int index)
      : cuda_(cuda),
        engine_(engine),
        receiver_(receiver),
        settings_(settings),
        index_(index),
        random_(settings.cuda.seed * 31 + static_cast<std::uint64_t>(index)),
        stream_(cuda.engine_stream()),
        heads_(cuda, rows, 3, 5),
        wide_(cuda, rows, 1, 9) {}

  void run() {
    for (int step = 0; step < settings_.steps; ++step) {
      for (int layer = 0; layer < 2; ++layer) {
        for (const Role role : {Role::query, Role::key, Role::value}) push(role, layer, step, Measure::rows);
        if (random_() % 4 == 0) push(Role::hidden, layer, step, random_() % 2 == 0 ? Measure::norm : Measure::rows);
        if (random_() % 2 == 0) push_stream(layer, step);
      }
      if (random_() % 8 == 0) push(Role::logits, 0, step, Measure::rows);
      if (random_() % 8 == 0) engine_.drain();
    }
  }

  [[nodiscard]] const std::vector<ErrorCode>& refusals() const { return refusals_; }

 private:
  static constexpr std::int64_t rows = 8;

  std::shared_ptr<const RowMap> choose_rows(int step) {
    auto map = std::make_shared<RowMap>();
    map->step = static_cast<std::uint64_t>(step);
    const std::uint64_t way = random_() % 4;
    for (std::int64_t row = 0; row < rows; ++row) {
      if (way == 0 || (way == 1 && row % 3 == 1) || (way == 2 && random_() % 2 == 0)) map->source.push_back(row);
    }
    if (way == 3) map->source = {static_cast<std::int64_t>(random_() % rows)};
    map->origin.resize(map->source.size());
    return map;
  }

  void push(Role role, int layer, int step, Measure measure) {
    const bool with_heads = role != Role::hidden && role != Role::logits;
    const EngineTensor& tensor = with_heads ? heads_ : wide_;
    RowSelection selection{role, index_ * 2 + layer, choose_rows(step), {}, measure};
    if (with_heads && random_() % 3 == 0)
      selection.heads = random_() % 2 == 0 ? std::vector{0, 2} : std::vector{2, 0, 1};
    const std::uint64_t key =
        static_cast<std::uint64_t>(((index_ * 2 + layer) * 64 + step) * 16 + static_cast<int>(role));
    const std::vector<float> values = tensor_values(tensor.size(), key);
    receiver_.expect(selection, tensor.expected(values, selection, settings_.type));
    float* const data = tensor.data();
    cuda_.enqueue(stream_, [=] { std::copy(values.begin(), values.end(), data); });
    try {
      engine_.copy(tensor.tensor(with_heads), selection, stream_);
    } catch (const Error& error) {
      refusals_.push_back(error.code());
      receiver_.forget(selection);
    }
    // The engine's next kernel may use the memory at once.
    cuda_.enqueue(stream_, [=, count = values.size()] { std::fill_n(data, count, -1.0F); });
  }

  /// The residual stream as the sink asks for it: steps within two requests, and cosines within the step at hand.
  void push_stream(int layer, int step) {
    const auto rows_of_step = std::make_shared<RowMap>(*choose_rows(step));
    const std::size_t split = random_() % (rows_of_step->source.size() + 1);
    const std::uint64_t own_layer = static_cast<std::uint64_t>(index_ * 2 + layer);
    const std::size_t line = 2 * static_cast<std::size_t>(layer);
    const std::size_t width = wide_.size() / static_cast<std::size_t>(rows);
    const std::vector<float> input = tensor_values(wide_.size(), own_layer * 77 + static_cast<std::uint64_t>(step));
    std::vector<float> compared;
    for (std::size_t i = 0; i < rows_of_step->source.size(); ++i) {
      const std::size_t request = i < split ? 0 : 1;
      const auto row = input.begin() + rows_of_step->source[i] * static_cast<std::int64_t>(width);
      const std::vector<float> values(row, row + static_cast<std::int64_t>(width));
      rows_of_step->origin[i] = {own_layer * 2 + request, tokens_[line + request]++};
      std::vector<float>& before = last_[line + request];
      const std::vector<float>& other = before.empty() ? values : before;
      compared.insert(compared.end(), other.begin(), other.end());
      before = values;
    }
    const auto select = [&](Role role, Measure measure) {
      return RowSelection{role, static_cast<int>(own_layer), rows_of_step, {}, measure};
    };
    write(input);
    submit(select(Role::hidden, Measure::step), &compared);
    if (settings_.threads == 1) {
      submit(select(Role::hidden, Measure::hold_for_attention), nullptr);
      submit(select(Role::hidden, Measure::hold_for_final), nullptr);
    }
    write(std::vector<float>(wide_.size(), -1.0F));
    if (settings_.threads > 1) return;  // what is held is that of one step at a time
    std::vector<float> held;
    for (const std::int64_t row : rows_of_step->source) {
      const auto first = input.begin() + row * static_cast<std::int64_t>(width);
      held.insert(held.end(), first, first + static_cast<std::int64_t>(width));
    }
    write(tensor_values(wide_.size(), own_layer * 91 + static_cast<std::uint64_t>(step)));
    submit(select(Role::after_attention, Measure::attention_cosine), &held);
    submit(select(Role::hidden, Measure::final_cosine), &held);
    write(std::vector<float>(wide_.size(), -1.0F));
  }

  void write(const std::vector<float>& values) {
    written_ = values;
    cuda_.enqueue(stream_, [values, data = wide_.data()] { std::copy(values.begin(), values.end(), data); });
  }

  /// Hands the wide tensor over; its rows are compared with `other`, dense.
  void submit(const RowSelection& selection, const std::vector<float>* other) {
    if (other != nullptr) receiver_.expect(selection, wide_.expected(written_, selection, settings_.type, other));
    try {
      engine_.copy(wide_.tensor(false), selection, stream_);
    } catch (const Error& error) {
      refusals_.push_back(error.code());
      if (other != nullptr) receiver_.forget(selection);
    }
  }

  CudaDouble& cuda_;
  CopyEngine& engine_;
  ComparingReceiver& receiver_;
  const RunSettings& settings_;
  int index_;
  std::mt19937_64 random_;
  CudaStream stream_;
  EngineTensor heads_, wide_;
  std::vector<float> written_;              // to wide_, for a comparison
  std::array<std::vector<float>, 4> last_;  // by layer and request
  std::array<std::int32_t, 4> tokens_{};    // likewise
  std::vector<ErrorCode> refusals_;
};

void run_threads(CudaDouble& cuda, CopyEngine& engine, ComparingReceiver& receiver, const RunSettings& settings,
                 RunResult& result) {
  std::vector<std::unique_ptr<EngineThread>> threads;
  for (int index = 0; index < settings.threads; ++index) {
    threads.push_back(std::make_unique<EngineThread>(cuda, engine, receiver, settings, index));
  }
  if (settings.threads == 1) {
    threads[0]->run();
  } else {
    std::vector<std::thread> running;
    for (const auto& thread : threads) running.emplace_back([&thread] { thread->run(); });
    for (std::thread& thread : running) thread.join();
  }
  for (const auto& thread : threads) {
    result.refusals.insert(result.refusals.end(), thread->refusals().begin(), thread->refusals().end());
  }
}

}  // namespace

RunResult run_copy_engine(const RunSettings& settings) {
  RunResult result;
  const auto cuda = std::make_shared<CudaDouble>(settings.cuda);
  ComparingReceiver receiver;
  if (settings.throwing_batch) receiver.throw_at(*settings.throwing_batch);
  CopyEngineOptions options;
  options.ring_bytes = settings.ring_bytes;
  options.drop = settings.drop;
  options.type = settings.type;
  options.pending = settings.pending;
  options.background = settings.background;
  options.history_bytes = std::size_t{1} << 16;
  if (settings.drop || settings.cuda.failing_call) receiver.let_steps_miss();
  const auto expect = [&](bool holds, const char* what) {
    if (!holds) result.problems.emplace_back(what);
  };
  try {
    CopyEngine engine(cuda, receiver, options);
    run_threads(*cuda, engine, receiver, settings, result);
    engine.drain();
    result.counters = engine.counters();
    const CopyCounters& counters = result.counters;
    expect(counters.rows == counters.delivered_rows + counters.dropped_rows + counters.lost_rows, "rows do not add up");
    expect(settings.drop || counters.dropped_rows <= counters.unmatched_rows, "dropped although it may wait");
    // Where a call was refused, what would have been compared with its rows is not.
    expect(settings.drop || !result.refusals.empty() || counters.unmatched_rows == 0,
           "a row to compare with was lost although it may wait");
    for (int line = 0; line < settings.threads * 4; ++line) engine.forget(static_cast<std::uint64_t>(line));
    // Whatever failed, cosines that were refused leave behind what was held for them.
    const bool whole = !settings.drop && receiver.failures().empty() && result.refusals.empty();
    expect(!whole || engine.counters().held_bytes == 0, "rows are held of requests that are gone");
    if (!settings.throwing_batch) {
      expect(counters.delivered_rows == receiver.received_rows(), "the sink received other rows than were counted");
      expect(counters.lost_rows > 0 || counters.dropped_rows == receiver.dropped_rows(), "drops are not counted");
    }
  } catch (const Error& error) {
    result.refusals.push_back(error.code());
  }
  cuda->finish();
  for (const std::string& problem : receiver.problems()) result.problems.push_back(problem);
  for (const std::string& breach : cuda->breaches()) result.problems.push_back("CUDA: " + breach);
  expect(cuda->leaks() == 0, "leaks");
  result.failures = receiver.failures();
  result.calls = cuda->calls();
  result.operations = cuda->operations();
  return result;
}

}  // namespace evictsim::tests
