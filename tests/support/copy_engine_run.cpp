#include "tests/support/copy_engine_run.h"

#include <algorithm>
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
      return Role::hidden;
    default:
      return arrived;
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
  expected_[{static_cast<int>(selection.role), selection.layer, selection.norm_only}][selection.rows->step] =
      std::move(entry);
}

void ComparingReceiver::forget(const RowSelection& selection) {
  const std::scoped_lock lock(mutex_);
  expected_[{static_cast<int>(selection.role), selection.layer, selection.norm_only}].erase(selection.rows->step);
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
  const Line line{static_cast<int>(pushed_role(batch.role)), batch.layer, batch.role == Role::residual_norm};
  const std::string name = text_of(batch.role, batch.layer, batch.rows->step);
  note(line, batch.rows->step);
  const auto found = expected_[line].find(batch.rows->step);
  if (found == expected_[line].end() || found->second.batches >= found->second.bytes.size() || found->second.dropped) {
    problems_.push_back(name + ": came unasked or twice");
    return;
  }
  const std::vector<std::byte>& wanted = found->second.bytes[found->second.batches++];
  if (!std::equal(batch.bytes.begin(), batch.bytes.end(), wanted.begin(), wanted.end())) {
    problems_.push_back(name + ": other bytes");
  }
  if (found->second.batches == found->second.bytes.size()) received_rows_ += found->second.rows;
}

void ComparingReceiver::dropped(const RowSelection& selection) {
  const std::scoped_lock lock(mutex_);
  const Line line{static_cast<int>(selection.role), selection.layer, selection.norm_only};
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
                                                           const RowSelection& selection, TensorType type) const {
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
  if (selection.norm_only) {
    std::vector<float> output(selection.rows->source.size() * ComparisonRows::row_bytes / sizeof(float));
    RowComparison job;
    job.first = source;
    job.rows = count;
    job.output.base = reinterpret_cast<unsigned char*>(output.data());
    run_on_host(job);
    return {bytes_of_values(std::vector<float>(output.begin(), output.begin() + count))};
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
        for (const Role role : {Role::query, Role::key, Role::value}) push(role, layer, step, false);
        if (random_() % 4 == 0) push(Role::hidden, layer, step, random_() % 2 == 0);
      }
      if (random_() % 8 == 0) push(Role::logits, 0, step, false);
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

  void push(Role role, int layer, int step, bool norm_only) {
    const bool with_heads = role != Role::hidden && role != Role::logits;
    const EngineTensor& tensor = with_heads ? heads_ : wide_;
    RowSelection selection{role, index_ * 2 + layer, choose_rows(step), {}, norm_only};
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

  CudaDouble& cuda_;
  CopyEngine& engine_;
  ComparingReceiver& receiver_;
  const RunSettings& settings_;
  int index_;
  std::mt19937_64 random_;
  CudaStream stream_;
  EngineTensor heads_, wide_;
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
    expect(settings.drop || counters.dropped_rows == 0, "dropped although it may wait");
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
