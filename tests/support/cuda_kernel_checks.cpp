#include "tests/support/cuda_kernel_checks.h"

#include <Eigen/Core>
#include <algorithm>
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "traces/capture/cuda/resource.h"
#include "traces/capture/token_statistics.h"

namespace evictsim::tests {

using namespace traces::capture;

namespace {

/// Arrays of one check in device memory.
class Bench {
 public:
  explicit Bench(CudaRuntime& runtime) : runtime_(runtime), stream_(CudaResource::stream(runtime)) {}

  template <typename T>
  T* upload(const std::vector<T>& values) {
    const std::size_t bytes = std::max<std::size_t>(1, values.size() * sizeof(T));
    memory_.push_back(CudaResource::device_memory(runtime_, bytes));
    const CudaResource pinned = CudaResource::pinned_memory(runtime_, bytes);
    std::memcpy(pinned.get(), values.data(), values.size() * sizeof(T));
    require(runtime_.copy_to_device(memory_.back().get(), pinned.get(), bytes, stream_.get()), "uploading");
    require(runtime_.synchronize_stream(stream_.get()), "uploading");
    return static_cast<T*>(memory_.back().get());
  }

  /// Runs the job, whose output has `bytes` bytes.
  template <typename Job>
  std::vector<unsigned char> run(Job job, std::size_t bytes) {
    const CudaResource output = CudaResource::device_memory(runtime_, bytes);
    const CudaResource pinned = CudaResource::pinned_memory(runtime_, bytes);
    job.output.base = output.bytes();
    require(runtime_.launch(job, stream_.get()), "launching");
    require(runtime_.copy_to_host(pinned.get(), output.get(), bytes, stream_.get()), "downloading");
    require(runtime_.synchronize_stream(stream_.get()), "downloading");
    return {pinned.bytes(), pinned.bytes() + bytes};
  }

 private:
  CudaRuntime& runtime_;
  CudaResource stream_;
  std::vector<CudaResource> memory_;
};

constexpr ElementType all_types[] = {ElementType::f32, ElementType::f16, ElementType::bf16, ElementType::fp8_e4m3,
                                     ElementType::fp8_e5m2};

/// The value of a float8 by the definition of its format.
float fp8_value(std::uint32_t bits, int mantissa_bits) {
  const int exponent_bits = 7 - mantissa_bits;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const auto exponent = static_cast<int>((bits >> mantissa_bits) & ((1U << exponent_bits) - 1));
  const auto mantissa = static_cast<float>(bits & ((1U << mantissa_bits) - 1));
  const float sign = (bits & 0x80U) != 0 ? -1.0F : 1.0F;
  if (mantissa_bits == 3 && (bits & 0x7fU) == 0x7fU) return NAN;
  if (mantissa_bits == 2 && exponent == 31) return mantissa == 0 ? sign * INFINITY : NAN;
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp(mantissa + std::ldexp(1.0F, mantissa_bits), exponent - bias - mantissa_bits);
}

/// Raw elements of a type and their values.
struct Elements {
  std::vector<unsigned char> bytes;
  Eigen::ArrayXf values;
};

template <typename Number>
void put(Elements& elements, std::size_t place, float value) {
  const auto number = static_cast<Number>(value);
  std::memcpy(elements.bytes.data() + place * sizeof number, &number, sizeof number);
  elements.values[static_cast<Eigen::Index>(place)] = static_cast<float>(number);
}

Elements random_elements(ElementType type, std::size_t count, std::uint64_t seed, float spread = 1.5F) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0.0F, spread);
  Elements elements{std::vector<unsigned char>(count * element_bytes(type)),
                    Eigen::ArrayXf(static_cast<Eigen::Index>(count))};
  for (std::size_t i = 0; i < count; ++i) {
    if (type == ElementType::f32) {
      put<float>(elements, i, normal(random));
    } else if (type == ElementType::f16) {
      put<Eigen::half>(elements, i, normal(random));
    } else if (type == ElementType::bf16) {
      put<Eigen::bfloat16>(elements, i, normal(random));
    } else {
      const int mantissa_bits = type == ElementType::fp8_e4m3 ? 3 : 2;
      std::uint32_t bits = 0;
      do {
        bits = static_cast<std::uint32_t>(random() & 0xffU);
      } while (!std::isfinite(fp8_value(bits, mantissa_bits)));
      elements.bytes[i] = static_cast<unsigned char>(bits);
      elements.values[static_cast<Eigen::Index>(i)] = fp8_value(bits, mantissa_bits);
    }
  }
  return elements;
}

/// `values` as the stored type would hold them, by Eigen's conversions.
std::vector<unsigned char> stored_by_eigen(const Eigen::ArrayXf& values, ElementType stored) {
  std::vector<unsigned char> bytes(static_cast<std::size_t>(values.size()) * element_bytes(stored));
  const auto copy = [&](const auto& numbers) { std::memcpy(bytes.data(), numbers.data(), bytes.size()); };
  if (stored == ElementType::f32) {
    copy(values);
  } else if (stored == ElementType::f16) {
    copy(Eigen::Array<Eigen::half, Eigen::Dynamic, 1>(values.cast<Eigen::half>()));
  } else {
    copy(Eigen::Array<Eigen::bfloat16, Eigen::Dynamic, 1>(values.cast<Eigen::bfloat16>()));
  }
  return bytes;
}

/// One way rows lie in memory: where element (row, head, i) of the wanted rows is, or -1 for a row that is not there.
struct Layout {
  std::string name;
  std::size_t elements = 0;  ///< of the memory behind it
  std::int64_t origin = 0;   ///< element that `data` points to
  RowSource source;
  std::int64_t rows = 0;
  std::vector<std::int64_t> indices;  ///< uploaded as source.index_type, when not empty
  std::vector<std::int32_t> heads;
  std::function<std::int64_t(std::int64_t, std::int64_t, std::int64_t)> place;
};

std::vector<Layout> layouts(std::int64_t rows, std::int64_t heads, std::int64_t width) {
  std::vector<Layout> result;
  const auto add = [&](const std::string& name, std::int64_t elements, std::int64_t origin, std::int64_t row_stride,
                       std::int64_t head_stride, std::int64_t element_stride) -> Layout& {
    Layout layout;
    layout.name = name;
    layout.elements = static_cast<std::size_t>(elements);
    layout.origin = origin;
    layout.source.heads = heads;
    layout.source.width = width;
    layout.source.row_stride = row_stride;
    layout.source.head_stride = head_stride;
    layout.source.element_stride = element_stride;
    layout.rows = rows;
    layout.place = [=](std::int64_t row, std::int64_t head, std::int64_t i) {
      return origin + row * row_stride + head * head_stride + i * element_stride;
    };
    result.push_back(layout);
    return result.back();
  };
  const std::int64_t line = heads * width, all = rows * line;
  add("dense", all, 0, line, width, 1);
  add("heads first", all, 0, width, rows * width, 1);
  add("elements first", all, 0, 1, rows, rows * heads);
  add("every third element", all * 3 + 7, 5, line * 3, width * 3, 3);
  add("inside a fused projection", rows * (line + 40), 24, line + 40, width, 1);
  add("reversed rows", all, (rows - 1) * line, -line, width, 1);
  add("one row for all", line, 0, 0, width, 1);
  add("one head for all", rows * width, 0, width, 0, 1);

  Layout& step = add("every second row from the third", (2 * rows + 3) * line, 0, line, width, 1);
  step.source.first_row = 3;
  step.source.row_step = 2;
  step.place = [=](std::int64_t row, std::int64_t head, std::int64_t i) {
    return (3 + 2 * row) * line + head * width + i;
  };
  Layout& back = add("heads backwards", all, 0, line, width, 1);
  back.source.first_head = heads - 1;
  back.source.head_step = -1;
  back.place = [=](std::int64_t row, std::int64_t head, std::int64_t i) {
    return row * line + (heads - 1 - head) * width + i;
  };
  Layout& chosen = add("listed heads", all, 0, line, width, 1);
  for (std::int64_t head = 0; head < heads; ++head) chosen.heads.push_back(static_cast<std::int32_t>(head * 5 % heads));
  chosen.place = [=, list = chosen.heads](std::int64_t row, std::int64_t head, std::int64_t i) {
    return row * line + list[static_cast<std::size_t>(head)] * width + i;
  };

  // A paged cache [pages, page, heads, width], rows scattered over it; some slots are padding or nonsense.
  for (const IndexType type : {IndexType::int32, IndexType::int64}) {
    for (const std::int64_t page : {std::int64_t{1}, std::int64_t{4}, std::int64_t{16}}) {
      const std::int64_t slots = (rows + page) / page * page * 2;
      Layout& paged = add("paged by " + std::to_string(page), slots * line, 0, line, width, 1);
      paged.source.page_size = page;
      paged.source.page_stride = page * line;
      paged.source.index_type = type;
      paged.source.index_limit = slots;
      for (std::int64_t row = 0; row < rows; ++row) paged.indices.push_back((row * 7 + 3) % slots);
      if (rows > 2) paged.indices[1] = -1;
      if (rows > 3) paged.indices[3] = slots;
      paged.place = [=, list = paged.indices](std::int64_t row, std::int64_t head, std::int64_t i) {
        const std::int64_t slot = list[static_cast<std::size_t>(row)];
        return slot < 0 || slot >= slots ? -1 : slot * line + head * width + i;
      };
    }
  }
  Layout& batch = add("a batch with gaps", 2 * (rows * line + 11), 0, line, width, 1);
  batch.rows = 2 * rows;
  batch.source.page_size = rows;
  batch.source.page_stride = rows * line + 11;
  batch.place = [=](std::int64_t row, std::int64_t head, std::int64_t i) {
    return row / rows * (rows * line + 11) + row % rows * line + head * width + i;
  };
  return result;
}

void check_layout(CudaRuntime& runtime, const Layout& layout, ElementType type, ElementType stored, float scale) {
  INFO(layout.name << ", rows " << layout.rows << ", type " << static_cast<int>(type) << ", stored "
                   << static_cast<int>(stored) << ", scale " << scale);
  Bench bench(runtime);
  const Elements elements = random_elements(type, layout.elements, layout.elements + static_cast<std::size_t>(type));
  RowGather job;
  job.source = layout.source;
  job.source.type = type;
  job.source.data = bench.upload(elements.bytes) + layout.origin * static_cast<std::int64_t>(element_bytes(type));
  if (layout.source.index_type == IndexType::int64) job.source.indices = bench.upload(layout.indices);
  if (layout.source.index_type == IndexType::int32) {
    job.source.indices = bench.upload(std::vector<std::int32_t>(layout.indices.begin(), layout.indices.end()));
  }
  if (!layout.heads.empty()) job.source.head_indices = bench.upload(layout.heads);
  job.rows = layout.rows;
  job.scale = scale;
  job.stored_type = stored;

  const std::int64_t heads = layout.source.heads, width = layout.source.width;
  Eigen::ArrayXf expected(layout.rows * heads * width);
  for (std::int64_t line = 0; line < layout.rows * heads; ++line) {
    for (std::int64_t i = 0; i < width; ++i) {
      const std::int64_t place = layout.place(line / heads, line % heads, i);
      expected[line * width + i] = place < 0 ? 0.0F : elements.values[place];
    }
  }
  expected *= scale;
  const std::vector<unsigned char> bytes = stored_by_eigen(expected, stored);
  CHECK(bench.run(job, bytes.size()) == bytes);
}

/// The definitions of docs/trace-format.md, in double precision by Eigen.
void check_row(const Eigen::ArrayXd& logits, std::int64_t target, const LogitRows& result, Eigen::Index row) {
  const double highest = logits.maxCoeff();
  const Eigen::ArrayXd weights = (logits - highest).exp();
  const double log_normaliser = highest + std::log(weights.sum());
  std::vector<double> probabilities;
  for (const double logit : logits) probabilities.push_back(std::exp(logit - log_normaliser));
  std::sort(probabilities.begin(), probabilities.end(), std::greater<>());
  const auto entropy_of = [&](std::size_t count) {
    double sum = 0;
    for (std::size_t i = 0; i < std::min(count, probabilities.size()); ++i) {
      if (probabilities[i] > 0) sum -= probabilities[i] * std::log(probabilities[i]);
    }
    return sum;
  };
  // A float32 of a double result; the entropy cancels against the normaliser.
  const auto near = [](double value) { return Approx(value).epsilon(1e-6).margin(2e-7); };
  CHECK(static_cast<double>(result.entropy[row]) == near(entropy_of(probabilities.size())));
  for (std::size_t top = 0; top < 3; ++top) {
    CHECK(static_cast<double>(result.entropy_top[row * 3 + static_cast<Eigen::Index>(top)]) ==
          near(entropy_of(entropy_tops[top])));
  }
  CHECK(static_cast<double>(result.log_normaliser[row]) == near(log_normaliser));
  CHECK(static_cast<double>(result.logprob[row]) == near(logits[target] - log_normaliser));
  Eigen::Index best = 0;
  while (logits[best] != highest) ++best;
  CHECK(result.most_probable[row] == best);
}

void check_vocabulary(CudaRuntime& runtime, std::int64_t vocabulary, ElementType type, float spread, bool banned) {
  INFO("vocabulary " << vocabulary << ", type " << static_cast<int>(type) << ", spread " << spread);
  constexpr std::int64_t rows = 3;
  Bench bench(runtime);
  Elements elements =
      random_elements(type, static_cast<std::size_t>(rows * vocabulary), static_cast<std::size_t>(vocabulary), spread);
  if (banned && type == ElementType::f32) {  // engines mask tokens with -infinity
    for (Eigen::Index i = 1; i < elements.values.size(); i += 3)
      put<float>(elements, static_cast<std::size_t>(i), -INFINITY);
  }
  std::vector<std::int64_t> targets;
  for (std::int64_t row = 0; row < rows; ++row) targets.push_back((row * 31) % vocabulary / 3 * 3);
  LogitStatistics job;
  job.source.data = bench.upload(elements.bytes);
  job.source.type = type;
  job.source.width = vocabulary;
  job.source.row_stride = vocabulary;
  job.rows = rows;
  job.targets = bench.upload(targets);
  for (std::size_t top = 0; top < 3; ++top) job.tops[top] = static_cast<std::uint32_t>(entropy_tops[top]);
  std::vector<unsigned char> output = bench.run(job, static_cast<std::size_t>(rows * LogitRows::row_bytes));
  CHECK(output == bench.run(job, output.size()));  // the same bits every time
  const LogitRows result = LogitRows::at(output.data(), rows);
  for (Eigen::Index row = 0; row < rows; ++row) {
    check_row(elements.values.segment(row * vocabulary, vocabulary).cast<double>(),
              targets[static_cast<std::size_t>(row)], result, row);
  }
}

/// Rows that go to places of their own.
void check_places(CudaRuntime& runtime) {
  constexpr std::int64_t rows = 3, heads = 2, width = 5;
  Bench bench(runtime);
  const Elements values = random_elements(ElementType::bf16, rows * heads * width, 3);
  const std::vector<std::int64_t> places = {4, 0, 2};
  RowGather job;
  job.source.data = bench.upload(values.bytes);
  job.source.type = ElementType::bf16;
  job.source.heads = heads;
  job.source.width = job.source.head_stride = width;
  job.source.row_stride = heads * width;
  job.rows = rows;
  job.stored_type = ElementType::f32;
  job.places = bench.upload(places);
  const std::vector<unsigned char> output = bench.run(job, 5 * heads * width * sizeof(float));
  for (std::size_t row = 0; row < places.size(); ++row) {
    std::array<float, heads * width> found{};
    std::memcpy(found.data(), output.data() + static_cast<std::size_t>(places[row]) * sizeof found, sizeof found);
    const float* const wanted = values.values.data() + row * found.size();
    CHECK(std::equal(found.begin(), found.end(), wanted));
  }
}

}  // namespace

void check_gather(CudaRuntime& runtime) {
  for (const auto& [rows, heads, width] :
       {std::array<std::int64_t, 3>{1, 1, 1}, {7, 3, 5}, {5, 2, 64}, {33, 4, 40}, {2, 1, 300}}) {
    for (const Layout& layout : layouts(rows, heads, width)) {
      for (const ElementType type : all_types) {
        for (const ElementType stored : {ElementType::f32, ElementType::f16, ElementType::bf16}) {
          check_layout(runtime, layout, type, stored, 1.0F);
        }
      }
    }
  }
  check_places(runtime);
  for (const ElementType type : {ElementType::fp8_e4m3, ElementType::fp8_e5m2}) {
    for (const float scale : {0.0371F, 2.5F}) {
      check_layout(runtime, layouts(7, 3, 5).front(), type, ElementType::bf16, scale);
    }
  }
}

void check_casts(CudaRuntime& runtime) {
  Bench bench(runtime);
  const auto cast = [&](const void* data, ElementType type, std::int64_t count, ElementType stored) {
    RowGather job;
    job.source.data = data;
    job.source.type = type;
    job.source.width = count;
    job.rows = 1;
    job.stored_type = stored;
    return bench.run(job, static_cast<std::size_t>(count) * element_bytes(stored));
  };
  const auto as_floats = [](const std::vector<unsigned char>& bytes) {
    std::vector<float> values(bytes.size() / 4);
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  };
  const auto differs = [](float left, float right) {
    if (std::isnan(right)) return !std::isnan(left) || std::signbit(left) != std::signbit(right);
    return std::bit_cast<std::uint32_t>(left) != std::bit_cast<std::uint32_t>(right);
  };

  std::vector<std::uint8_t> small(256);
  for (std::size_t bits = 0; bits < 256; ++bits) small[bits] = static_cast<std::uint8_t>(bits);
  const auto four = as_floats(cast(bench.upload(small), ElementType::fp8_e4m3, 256, ElementType::f32));
  const auto five = as_floats(cast(bench.upload(small), ElementType::fp8_e5m2, 256, ElementType::f32));
  int wrong = 0;
  for (std::uint32_t bits = 0; bits < 256; ++bits) {
    const float expected_four = fp8_value(bits, 3), expected_five = fp8_value(bits, 2);
    wrong += std::isnan(expected_four) ? !std::isnan(four[bits]) : differs(four[bits], expected_four);
    wrong += std::isnan(expected_five) ? !std::isnan(five[bits]) : differs(five[bits], expected_five);
  }
  CHECK(wrong == 0);

  std::vector<std::uint16_t> patterns(65536);
  for (std::size_t bits = 0; bits < patterns.size(); ++bits) patterns[bits] = static_cast<std::uint16_t>(bits);
  const auto halves = as_floats(cast(bench.upload(patterns), ElementType::f16, 65536, ElementType::f32));
  const auto bfloats = as_floats(cast(bench.upload(patterns), ElementType::bf16, 65536, ElementType::f32));
  for (std::size_t bits = 0; bits < patterns.size(); ++bits) {
    wrong += differs(halves[bits], static_cast<float>(Eigen::numext::bit_cast<Eigen::half>(patterns[bits])));
    wrong += differs(bfloats[bits], static_cast<float>(Eigen::numext::bit_cast<Eigen::bfloat16>(patterns[bits])));
  }
  CHECK(wrong == 0);

  // Around every midpoint of both 16-bit formats: the exponent and mantissa bits that decide a rounding.
  std::vector<float> values;
  for (std::uint32_t upper = 0; upper < 65536; ++upper) {
    for (const std::uint32_t lower : {0x0000U, 0x0fffU, 0x1000U, 0x1001U, 0x7fffU, 0x8000U, 0x8001U, 0xf000U}) {
      const auto value = std::bit_cast<float>((upper << 16) | lower);
      if (!std::isnan(value)) values.push_back(value);
    }
  }
  const Eigen::Map<const Eigen::ArrayXf> all(values.data(), static_cast<Eigen::Index>(values.size()));
  for (const ElementType stored : {ElementType::f16, ElementType::bf16}) {
    const auto count = static_cast<std::int64_t>(values.size());
    CHECK(cast(bench.upload(values), ElementType::f32, count, stored) == stored_by_eigen(all, stored));
  }
}

void check_logits(CudaRuntime& runtime) {
  for (const std::int64_t vocabulary : {1, 2, 5, 127, 128, 129, 256, 511, 512, 513, 1000, 5000}) {
    for (const ElementType type : {ElementType::f32, ElementType::f16, ElementType::bf16}) {
      for (const float spread : {0.01F, 3.0F, 40.0F}) check_vocabulary(runtime, vocabulary, type, spread, false);
    }
    check_vocabulary(runtime, vocabulary, ElementType::f32, 4.0F, vocabulary > 3);
    check_vocabulary(runtime, vocabulary, ElementType::f32, 1e4F, false);
  }
  // Equal logits, more of them than candidates: log(vocabulary), and exactly 512 of them count at the top.
  Bench bench(runtime);
  constexpr std::int64_t vocabulary = 2000;
  std::vector<float> values(vocabulary * 5, 1.25F);
  values[vocabulary * 1 + 17] = NAN;
  values[vocabulary * 2 + 3] = INFINITY;
  std::fill_n(values.begin() + vocabulary * 3, vocabulary, -INFINITY);
  values[vocabulary * 4 + 1999] = 2000.0F;
  LogitStatistics job;
  job.source.data = bench.upload(values);
  job.source.width = vocabulary;
  job.source.row_stride = vocabulary;
  job.rows = 5;
  std::vector<unsigned char> output = bench.run(job, 5 * static_cast<std::size_t>(LogitRows::row_bytes));
  const LogitRows result = LogitRows::at(output.data(), 5);
  const double uniform = std::log(2000.0);
  CHECK(static_cast<double>(result.entropy[0]) == Approx(uniform));
  CHECK(static_cast<double>(result.entropy_top[0]) == Approx(uniform * 128 / 2000));
  CHECK(static_cast<double>(result.entropy_top[2]) == Approx(uniform * 512 / 2000));
  CHECK(result.most_probable[0] == 0);
  CHECK(std::isnan(result.logprob[0]));
  for (const int broken : {1, 2, 3}) {
    CHECK(std::isnan(result.entropy[broken]));
    CHECK(std::isnan(result.entropy_top[broken * 3 + 1]));
    CHECK(result.most_probable[broken] == -1);
  }
  CHECK(result.entropy[4] == 0.0F);
  CHECK(result.most_probable[4] == 1999);
}

void check_comparison(CudaRuntime& runtime) {
  constexpr std::int64_t rows = 4;
  for (const std::int64_t width : {1, 3, 255, 256, 257, 1000}) {
    for (const ElementType type : {ElementType::f32, ElementType::f16, ElementType::bf16}) {
      INFO("width " << width << ", type " << static_cast<int>(type));
      Bench bench(runtime);
      const auto count = static_cast<std::size_t>(rows * width);
      Elements first = random_elements(type, count, count);
      const Elements second = random_elements(type, count, count + 1);
      if (type == ElementType::f32) {
        for (std::size_t i = 0; i < static_cast<std::size_t>(width); ++i) put<float>(first, i, 0.0F);
      }
      RowComparison job;
      job.first.data = bench.upload(first.bytes);
      job.first.type = type;
      job.first.width = width;
      job.first.row_stride = width;
      job.second = job.first;
      job.second.data = bench.upload(second.bytes);
      job.rows = rows;
      std::vector<unsigned char> output = bench.run(job, rows * static_cast<std::size_t>(ComparisonRows::row_bytes));
      const ComparisonRows result = ComparisonRows::at(output.data(), rows);
      for (Eigen::Index row = 0; row < rows; ++row) {
        const Eigen::VectorXd a = first.values.segment(row * width, width).cast<double>();
        const Eigen::VectorXd b = second.values.segment(row * width, width).cast<double>();
        const double cosine = a.norm() * b.norm() > 0 ? a.dot(b) / (a.norm() * b.norm()) : 1.0;
        const auto near = [](double value) { return Approx(value).epsilon(2e-7).margin(1e-7); };
        CHECK(static_cast<double>(result.norm[row]) == near(a.norm()));
        CHECK(static_cast<double>(result.other_norm[row]) == near(b.norm()));
        CHECK(static_cast<double>(result.cosine[row]) == near(cosine));
        CHECK(static_cast<double>(result.distance[row]) == near((a - b).norm()));
      }
      // Rows of one tensor among each other, in its own order: the last has none but elsewhere, the first has none.
      const std::vector<std::int64_t> within = {-1, 0, 1, -1}, elsewhere = {-1, -1, -1, 2};
      job.otherwise = job.second;
      job.second = job.first;
      for (auto [source, list] : {std::pair{&job.second, &within}, {&job.otherwise, &elsewhere}}) {
        source->indices = bench.upload(*list);
        source->index_type = IndexType::int64;
        source->index_limit = rows;
      }
      output = bench.run(job, output.size());
      const ComparisonRows chained = ComparisonRows::at(output.data(), rows);
      CHECK(std::isnan(chained.distance[0]));
      CHECK(std::isnan(chained.cosine[0]));
      for (Eigen::Index row = 1; row < rows; ++row) {
        const Elements& other = row == 3 ? second : first;
        const Eigen::VectorXf step =
            first.values.segment(row * width, width).matrix() - other.values.segment((row - 1) * width, width).matrix();
        CHECK(static_cast<double>(chained.distance[row]) ==
              Approx(step.cast<double>().norm()).epsilon(1e-6).margin(1e-6));
      }
      job.second = job.otherwise = {};
      output = bench.run(job, output.size());
      CHECK(static_cast<double>(ComparisonRows::at(output.data(), rows).norm[1]) ==
            Approx(first.values.segment(width, width).matrix().cast<double>().norm()));
      CHECK(ComparisonRows::at(output.data(), rows).other_norm[1] == 0.0F);
    }
  }
}

}  // namespace evictsim::tests
