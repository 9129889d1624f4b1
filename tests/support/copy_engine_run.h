#pragma once
/// \file
/// Runs the copy engine against the double of the CUDA runtime: an engine that writes tensors, hands them over and
/// overwrites them, and a sink that compares every byte with what was handed over.

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "tests/support/cuda_double.h"
#include "traces/capture/cuda/copy_engine.h"

namespace evictsim::tests {

/// A sink that knows what must come.
class ComparingReceiver final : public traces::capture::RowReceiver {
 public:
  using Role = traces::capture::Role;

  /// That selection was taken in: `bytes` per batch in the order of roles they arrive as.
  void expect(const traces::capture::RowSelection& selection, std::vector<std::vector<std::byte>> bytes);
  /// It was refused after all.
  void forget(const traces::capture::RowSelection& selection);

  void receive(const traces::capture::RowBatch& batch) override;
  void dropped(const traces::capture::RowSelection& selection) override;
  void failed(const Error& error) override;

  /// Makes receive() throw at this batch.
  void throw_at(std::uint64_t batch) { throwing_batch_ = batch; }
  /// Steps may be NaN, since the selection with the row before may have been dropped.
  void let_steps_miss() { may_miss_ = true; }

  /// What was lost, came twice, in another order or with other bytes; empty when all is well.
  [[nodiscard]] std::vector<std::string> problems() const;
  [[nodiscard]] std::uint64_t received_rows() const;
  [[nodiscard]] std::uint64_t dropped_rows() const;
  [[nodiscard]] std::vector<ErrorCode> failures() const;

 private:
  /// Role as pushed, layer, measure.
  using Line = std::tuple<int, int, traces::capture::Measure>;
  struct Expected {
    std::vector<std::vector<std::byte>> bytes;
    std::size_t rows = 0, batches = 0;
    bool dropped = false;
  };
  void note(const Line& line, std::uint64_t step);

  mutable std::mutex mutex_;
  std::map<Line, std::map<std::uint64_t, Expected>> expected_;
  std::map<Line, std::uint64_t> latest_;
  std::vector<std::string> problems_;
  std::vector<ErrorCode> failures_;
  std::uint64_t received_rows_ = 0, dropped_rows_ = 0, batches_ = 0;
  std::optional<std::uint64_t> throwing_batch_;
  bool may_miss_ = false;
};

/// A tensor [rows, heads, width], or [rows, width] without heads, of float32 in the double's device memory.
class EngineTensor {
 public:
  EngineTensor(CudaDouble& cuda, std::int64_t rows, std::int64_t heads, std::int64_t width);
  [[nodiscard]] DLTensor tensor(bool with_heads) const;
  [[nodiscard]] float* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return static_cast<std::size_t>(rows_ * heads_ * width_); }

  /// What the sink must get when the tensor holds `values`; `other`: the rows that those selected are compared with.
  [[nodiscard]] std::vector<std::vector<std::byte>> expected(const std::vector<float>& values,
                                                             const traces::capture::RowSelection& selection,
                                                             traces::TensorType type,
                                                             const std::vector<float>* other = nullptr) const;

 private:
  std::int64_t rows_, heads_, width_;
  mutable std::int64_t shape_[3];
  float* data_;
};

/// Small integers, exact in every stored type, that tell step, layer, role and place apart.
std::vector<float> tensor_values(std::size_t count, std::uint64_t key);

struct RunSettings {
  CudaDouble::Behaviour cuda;
  bool background = false, drop = false;
  int threads = 1;
  int steps = 6;
  std::size_t ring_bytes = 8192, pending = 4;
  traces::TensorType type = traces::TensorType::float16;
  std::optional<std::uint64_t> throwing_batch;
};

struct RunResult {
  std::vector<std::string> problems;
  traces::capture::CopyCounters counters;
  std::vector<ErrorCode> refusals;  ///< by copy(), or by the constructor
  std::vector<ErrorCode> failures;  ///< told to the sink
  std::uint64_t calls = 0, operations = 0;
};

/// One capture from opening to closing. `problems` holds every broken promise: lost, duplicated, reordered or torn
/// rows, wrong counters, leaks, deadlocks, broken rules of CUDA.
RunResult run_copy_engine(const RunSettings& settings);

}  // namespace evictsim::tests
