#pragma once
// A made-up engine that drives the C interface of the capture sink: it knows every number that it pushes.

#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "traces/capture/evictsim_capture.h"
#include "traces/half.h"

namespace evictsim::traces::capture::test {

/// How a pushed tensor lies in memory.
enum class Layout { compact, no_strides, heads_first, offset };
/// Its element type.
enum class Element { f32, f16, bf16, e4m3, e5m2 };

inline constexpr std::uint32_t interface_version = EVICTSIM_CAPTURE_ABI_MAJOR << 16 | EVICTSIM_CAPTURE_ABI_MINOR;

/// One of -7/4 .. 7/4, which every element type holds exactly; decided by all of its place.
inline float engine_value(const std::string& request, int role, int layer, std::int64_t token, std::int64_t element) {
  std::uint64_t hash = 1469598103934665603U;
  const auto mix = [&hash](std::uint64_t value) { hash = (hash ^ value) * 1099511628211U ^ (hash >> 29); };
  for (const char character : request) mix(static_cast<unsigned char>(character));
  mix(static_cast<std::uint64_t>(role));
  mix(static_cast<std::uint64_t>(layer));
  mix(static_cast<std::uint64_t>(token));
  mix(static_cast<std::uint64_t>(element));
  return static_cast<float>(static_cast<int>((hash >> 17) % 15) - 7) / 4.0F;
}

/// A tensor with memory of its own. Rows are given by the function; heads 0: a tensor without that axis.
class MadeTensor {
 public:
  MadeTensor(std::int64_t rows, std::int64_t heads, std::int64_t width, Element element, Layout layout,
             const std::function<float(std::int64_t row, std::int64_t element)>& value) {
    const std::int64_t lines = heads > 0 ? heads : 1;
    const std::size_t size = element == Element::f32 ? 4 : element == Element::f16 || element == Element::bf16 ? 2 : 1;
    const std::size_t shift = layout == Layout::offset ? 3 * size : 0;
    bytes_.resize(static_cast<std::size_t>(rows * lines * width) * size + shift + 8);
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t i = 0; i < lines * width; ++i) {
        const std::int64_t place = layout == Layout::heads_first ? i / width * rows * width + row * width + i % width
                                                                 : row * lines * width + i;
        store(bytes_.data() + shift + static_cast<std::size_t>(place) * size, element, value(row, i));
      }
    }
    shape_ = {rows};
    strides_ = {lines * width};
    if (layout == Layout::heads_first && heads > 0) {
      shape_ = {1, rows};  // [batch, rows, heads, width] out of [batch, heads, rows, width]
      strides_ = {rows * lines * width, width};
    }
    if (heads > 0) {
      shape_.push_back(heads);
      strides_.push_back(layout == Layout::heads_first ? rows * width : width);
    }
    shape_.push_back(width);
    strides_.push_back(1);
    tensor_.data = bytes_.data();
    tensor_.device = {kDLCPU, 0};
    tensor_.ndim = static_cast<std::int32_t>(shape_.size());
    tensor_.dtype = type_of(element);
    tensor_.shape = shape_.data();
    tensor_.strides = layout == Layout::no_strides ? nullptr : strides_.data();
    tensor_.byte_offset = shift;
  }
  MadeTensor(const MadeTensor&) = delete;
  MadeTensor& operator=(const MadeTensor&) = delete;

  [[nodiscard]] DLTensor* get() { return &tensor_; }

 private:
  static DLDataType type_of(Element element) {
    switch (element) {
      case Element::f32:
        return {kDLFloat, 32, 1};
      case Element::f16:
        return {kDLFloat, 16, 1};
      case Element::bf16:
        return {kDLBfloat, 16, 1};
      case Element::e4m3:
        return {kDLFloat8_e4m3fn, 8, 1};
      case Element::e5m2:
        return {kDLFloat8_e5m2, 8, 1};
    }
    return {};
  }

  static void store(unsigned char* place, Element element, float value) {
    const std::uint16_t half = float_to_half(value);
    const std::uint16_t bfloat = float_to_bfloat(value);
    switch (element) {
      case Element::f32:
        std::memcpy(place, &value, 4);
        return;
      case Element::f16:
        std::memcpy(place, &half, 2);
        return;
      case Element::bf16:
        std::memcpy(place, &bfloat, 2);
        return;
      case Element::e5m2:
        *place = static_cast<unsigned char>(half >> 8);
        return;
      case Element::e4m3: {
        // Of these few values: sign, exponent with bias 7 for 15, the upper three bits of the mantissa.
        const int exponent = (half >> 10 & 31) - 15 + 7;
        const int magnitude = value == 0 ? 0 : exponent << 3 | (half >> 7 & 7);
        *place = static_cast<unsigned char>((half >> 8 & 0x80) | magnitude);
        return;
      }
    }
  }

  std::vector<unsigned char> bytes_;
  std::vector<std::int64_t> shape_, strides_;
  DLTensor tensor_{};
};

/// Geometry and progress of the engine. Requests are known by name; token t of a request is (7 t + length of the name)
/// mod vocab.
struct Engine {
  int layers = 3, query_heads = 4, kv_heads = 2, head_dim = 8, hidden = 16, vocab = 40;
  Element element = Element::f32;
  Layout layout = Layout::compact;
  bool with_hidden = false, with_logits = false;
  void* stream = nullptr;  ///< a CUDA stream: tensors are then said to be on a device, and kept
  std::vector<std::unique_ptr<MadeTensor>> kept;
  evictsim_capture* capture = nullptr;
  std::map<std::string, std::int32_t> lengths;  ///< tokens so far

  struct Part {
    std::string request;
    std::int32_t count;
    std::int32_t prompt;
  };

  [[nodiscard]] std::int32_t open(const std::string& directory, const std::string& options) {
    return evictsim_capture_open(directory.c_str(), options.c_str(), interface_version, &capture);
  }

  [[nodiscard]] std::string model_text() const {
    return "model=made up\nengine=test\nengine_version=1\nnum_layers=" + std::to_string(layers) +
           "\nnum_query_heads=" + std::to_string(query_heads) + "\nnum_kv_heads=" + std::to_string(kv_heads) +
           "\nhead_dim=" + std::to_string(head_dim) + "\nhidden_size=" + std::to_string(hidden) +
           "\nvocab_size=" + std::to_string(vocab) + "\nrope_layout=half\nrope_theta=10000\n";
  }
  [[nodiscard]] std::int32_t model() const { return evictsim_capture_model(capture, model_text().c_str()); }

  [[nodiscard]] std::int32_t token(const std::string& request, std::int32_t position) const {
    return (7 * position + static_cast<std::int32_t>(request.size())) % vocab;
  }

  /// One step over `parts`, with `padding` unused rows in front of each. The first status that is not OK, and the step
  /// is ended all the same.
  std::int32_t step(const std::vector<Part>& parts, std::int64_t padding = 0) {
    std::vector<evictsim_capture_rows> ranges;
    std::vector<std::vector<std::int32_t>> ids;
    std::vector<std::pair<std::string, std::int32_t>> rows;  // request and position, "" for padding
    for (const Part& part : parts) {
      rows.insert(rows.end(), static_cast<std::size_t>(padding), {"", 0});
      const std::int32_t first = lengths[part.request];
      std::vector<std::int32_t>& own = ids.emplace_back();
      const auto place = static_cast<std::int64_t>(rows.size());
      for (std::int32_t i = 0; i < part.count; ++i) {
        own.push_back(token(part.request, first + i));
        rows.emplace_back(part.request, first + i);
      }
      ranges.push_back({part.request.c_str(), place, part.count, first, part.prompt, nullptr});
      lengths[part.request] += part.count;
    }
    for (std::size_t i = 0; i < ranges.size(); ++i) ranges[i].token_ids = ids[i].data();
    std::int32_t status = evictsim_capture_begin_step(capture, ranges.data(), ranges.size());
    if (status != EVICTSIM_CAPTURE_OK) return status;
    const auto push = [&](int role, int layer, std::int64_t heads, std::int64_t width) {
      auto tensor = std::make_unique<MadeTensor>(
          static_cast<std::int64_t>(rows.size()), heads, width, element, layout, [&](std::int64_t row, std::int64_t i) {
            const auto& [request, position] = rows[static_cast<std::size_t>(row)];
            return engine_value(request, role, layer, position, i);
          });
      if (stream != nullptr) tensor->get()->device = {kDLCUDA, 0};
      const std::int32_t pushed = evictsim_capture_push(capture, tensor->get(), role, layer, stream);
      if (stream != nullptr) kept.push_back(std::move(tensor));
      if (status == EVICTSIM_CAPTURE_OK) status = pushed;
    };
    for (int layer = 0; layer < layers; ++layer) {
      if (with_hidden) push(EVICTSIM_CAPTURE_X, layer, 0, hidden);
      push(EVICTSIM_CAPTURE_Q, layer, query_heads, head_dim);
      push(EVICTSIM_CAPTURE_K, layer, kv_heads, head_dim);
      push(EVICTSIM_CAPTURE_V, layer, kv_heads, head_dim);
      if (with_hidden) push(EVICTSIM_CAPTURE_AFTER_ATTENTION, layer, 0, hidden);
    }
    if (with_hidden) push(EVICTSIM_CAPTURE_X, layers, 0, hidden);
    if (with_logits) push(EVICTSIM_CAPTURE_LOGITS, 0, 0, vocab);
    const std::int32_t ended = evictsim_capture_end_step(capture);
    return status == EVICTSIM_CAPTURE_OK ? ended : status;
  }

  /// Prompt in one step, then decode steps of one token, then the end.
  std::int32_t run(const std::string& request, std::int32_t prompt, std::int32_t decode) {
    std::int32_t status = step({{request, prompt, prompt}});
    for (std::int32_t i = 0; i < decode && status == EVICTSIM_CAPTURE_OK; ++i) status = step({{request, 1, prompt}});
    if (status != EVICTSIM_CAPTURE_OK) return status;
    return evictsim_capture_finish_request(capture, request.c_str());
  }

  [[nodiscard]] std::int32_t close() {
    evictsim_capture* closing = capture;
    capture = nullptr;
    return evictsim_capture_close(closing);
  }

  [[nodiscard]] evictsim_capture_counters counters() const {
    evictsim_capture_counters result{};
    result.struct_size = sizeof result;
    evictsim_capture_get_counters(capture, &result);
    return result;
  }
};

}  // namespace evictsim::traces::capture::test
