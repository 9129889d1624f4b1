#pragma once
/// \file
/// Float32 values in host memory as a DLPack tensor, for front ends of this tree that push into the sink.

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "traces/capture/dlpack/dlpack.h"

namespace evictsim::traces::capture {

/// Row-major without gaps; the values must outlive it.
class HostTensor {
 public:
  HostTensor(std::span<const float> values, std::vector<std::int64_t> shape) : shape_(std::move(shape)) {
    // DLPack has no tensor that is only read; the sink does not write.
    tensor_.data = const_cast<float*>(values.data());
    tensor_.device = {kDLCPU, 0};
    tensor_.ndim = static_cast<std::int32_t>(shape_.size());
    tensor_.dtype = {kDLFloat, 32, 1};
    tensor_.shape = shape_.data();
  }
  HostTensor(const HostTensor&) = delete;
  HostTensor& operator=(const HostTensor&) = delete;

  [[nodiscard]] const DLTensor* get() const { return &tensor_; }

 private:
  std::vector<std::int64_t> shape_;
  DLTensor tensor_{};
};

}  // namespace evictsim::traces::capture
