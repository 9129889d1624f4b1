#include "models/kv_codec.h"

#include <Eigen/Eigenvalues>
#include <Eigen/QR>
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <utility>

#include "traces/half.h"

namespace evictsim::models {
namespace {

constexpr float largest_half = 65504.0F;
constexpr int byte_bits = 8;
constexpr Index norm_bytes = 4;

/// The nearest finite float16.
std::uint16_t finite_half(float value) { return traces::float_to_half(std::clamp(value, -largest_half, largest_half)); }

void put16(std::uint16_t value, std::vector<std::uint8_t>& bytes) {
  bytes.push_back(static_cast<std::uint8_t>(value & 0xFFU));
  bytes.push_back(static_cast<std::uint8_t>(value >> byte_bits));
}

std::uint16_t get16(std::span<const std::uint8_t> bytes) {
  return static_cast<std::uint16_t>(bytes[0] | (bytes[1] << byte_bits));
}

float get_half(std::span<const std::uint8_t> bytes) { return traces::half_to_float(get16(bytes)); }

std::size_t nearest_level(std::span<const float> levels, double number) {
  const auto above = std::lower_bound(levels.begin(), levels.end(), number);
  if (above == levels.begin()) return 0;
  const auto place = static_cast<std::size_t>(above - levels.begin());
  if (above == levels.end()) return place - 1;
  return number - levels[place - 1] <= levels[place] - number ? place - 1 : place;
}

/// Steps of the best evenly spaced quantiser of a standard normal variable with 2^b levels, b = 1 .. 8.
constexpr std::array<double, 8> normal_steps = {1.5958, 0.9957, 0.5860, 0.3352, 0.1881, 0.1041, 0.0569, 0.0308};
constexpr int most_bits = static_cast<int>(normal_steps.size());

}  // namespace

void pack_codes(std::span<const std::uint32_t> codes, int bits, std::vector<std::uint8_t>& bytes) {
  const std::size_t begin = bytes.size();
  bytes.resize(begin + static_cast<std::size_t>(packed_bytes(std::ssize(codes), bits)), 0);
  std::size_t place = 0;
  for (const std::uint32_t code : codes) {
    for (int bit = 0; bit < bits; ++bit, ++place) {
      bytes[begin + place / byte_bits] |= static_cast<std::uint8_t>(((code >> bit) & 1U) << (place % byte_bits));
    }
  }
}

std::vector<std::uint32_t> unpack_codes(std::span<const std::uint8_t> bytes, Index count, int bits) {
  std::vector<std::uint32_t> codes(static_cast<std::size_t>(count), 0);
  std::size_t place = 0;
  for (std::uint32_t& code : codes) {
    for (int bit = 0; bit < bits; ++bit, ++place) {
      code |= ((static_cast<std::uint32_t>(bytes[place / byte_bits]) >> (place % byte_bits)) & 1U) << bit;
    }
  }
  return codes;
}

void UniformCodec::encode(std::span<const float> numbers, std::vector<std::uint8_t>& bytes) const {
  const auto [least, largest] = std::minmax_element(numbers.begin(), numbers.end());
  const auto top = static_cast<double>((1U << bits) - 1);
  const std::uint16_t zero_half = finite_half(*least);
  const std::uint16_t scale_half =
      finite_half(static_cast<float>((static_cast<double>(*largest) - static_cast<double>(*least)) / top));
  const double zero = traces::half_to_float(zero_half);
  const double scale = traces::half_to_float(scale_half);
  std::vector<std::uint32_t> codes;
  codes.reserve(numbers.size());
  for (const float number : numbers) {
    const double code = scale > 0 ? std::nearbyint((static_cast<double>(number) - zero) / scale) : 0;
    codes.push_back(static_cast<std::uint32_t>(std::clamp(code, 0.0, top)));
  }
  put16(zero_half, bytes);
  put16(scale_half, bytes);
  pack_codes(codes, bits, bytes);
}

void UniformCodec::decode(std::span<const std::uint8_t> bytes, std::span<float> numbers) const {
  const double zero = get_half(bytes);
  const double scale = get_half(bytes.subspan(2));
  const std::vector<std::uint32_t> codes = unpack_codes(bytes.subspan(4), std::ssize(numbers), bits);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(codes[i] * scale + zero);
}

std::vector<float> kmeans_levels(std::vector<float> numbers, int count) {
  constexpr int rounds = 50;
  const auto levels_count = static_cast<std::size_t>(count);
  if (numbers.empty()) return std::vector<float>(levels_count, 0.0F);
  std::sort(numbers.begin(), numbers.end());
  std::vector<double> sums(numbers.size() + 1, 0.0);
  for (std::size_t i = 0; i < numbers.size(); ++i) sums[i + 1] = sums[i] + static_cast<double>(numbers[i]);
  std::vector<double> levels;
  for (std::size_t i = 0; i < levels_count; ++i) {
    levels.push_back(numbers[(2 * i + 1) * numbers.size() / (2 * levels_count)]);
  }
  for (int round = 0; round < rounds; ++round) {
    std::vector<double> moved = levels;
    std::size_t begin = 0;
    for (std::size_t i = 0; i < levels_count; ++i) {
      // Numbers up to the middle between two levels belong to the lower one.
      const auto end = i + 1 == levels_count
                           ? numbers.size()
                           : static_cast<std::size_t>(
                                 std::upper_bound(numbers.begin(), numbers.end(), (levels[i] + levels[i + 1]) / 2) -
                                 numbers.begin());
      if (end > begin) moved[i] = (sums[end] - sums[begin]) / static_cast<double>(end - begin);
      begin = std::max(begin, end);
    }
    std::sort(moved.begin(), moved.end());
    if (moved == levels) break;
    levels = std::move(moved);
  }
  return {levels.begin(), levels.end()};
}

NonuniformCodec::NonuniformCodec(int bits, std::vector<float> levels) : bits_(bits), levels_(std::move(levels)) {
  for (float& level : levels_) level = traces::half_to_float(finite_half(level));
}

void NonuniformCodec::encode(std::span<const float> numbers, std::span<const float> lower, std::span<const float> upper,
                             std::span<const Index> outliers, std::vector<std::uint8_t>& bytes) const {
  std::vector<std::uint32_t> codes;
  codes.reserve(numbers.size());
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const double middle = (static_cast<double>(upper[i]) + static_cast<double>(lower[i])) / 2;
    const double range = (static_cast<double>(upper[i]) - static_cast<double>(lower[i])) / 2;
    codes.push_back(static_cast<std::uint32_t>(
        nearest_level(levels_, range > 0 ? (static_cast<double>(numbers[i]) - middle) / range : 0)));
  }
  pack_codes(codes, bits_, bytes);
  put16(static_cast<std::uint16_t>(outliers.size()), bytes);
  for (const Index place : outliers) {
    put16(static_cast<std::uint16_t>(place), bytes);
    put16(finite_half(numbers[static_cast<std::size_t>(place)]), bytes);
  }
}

void NonuniformCodec::decode(std::span<const std::uint8_t> bytes, std::span<const float> lower,
                             std::span<const float> upper, std::span<float> numbers) const {
  const std::vector<std::uint32_t> codes = unpack_codes(bytes, std::ssize(numbers), bits_);
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const double middle = (static_cast<double>(upper[i]) + static_cast<double>(lower[i])) / 2;
    const double range = (static_cast<double>(upper[i]) - static_cast<double>(lower[i])) / 2;
    numbers[i] = static_cast<float>(range * levels_[codes[i]] + middle);
  }
  bytes = bytes.subspan(static_cast<std::size_t>(packed_bytes(std::ssize(numbers), bits_)));
  const std::size_t outliers = get16(bytes);
  for (std::size_t i = 0; i < outliers; ++i) {
    numbers[get16(bytes.subspan(2 + 4 * i))] = get_half(bytes.subspan(4 + 4 * i));
  }
}

DirectionCodec DirectionCodec::random(Index dimension, Index record, std::mt19937_64 generator) {
  DirectionCodec codec;
  codec.record_ = record;
  const Index room = (record - norm_bytes) * byte_bits;
  codec.bits_ = static_cast<int>(std::clamp<Index>(room / dimension, 1, most_bits));
  const Index components = std::min(dimension, room);
  std::normal_distribution<double> normal;
  Eigen::MatrixXd draws(dimension, components);
  for (Index i = 0; i < draws.size(); ++i) draws.data()[i] = normal(generator);
  const Eigen::HouseholderQR<Eigen::MatrixXd> decomposition(draws);
  codec.axes_ = (decomposition.householderQ() * Eigen::MatrixXd::Identity(dimension, components)).transpose();
  codec.spread_.assign(static_cast<std::size_t>(components), 1 / std::sqrt(static_cast<double>(dimension)));
  codec.shared_ = static_cast<Index>(sizeof(std::uint64_t));
  return codec;
}

DirectionCodec DirectionCodec::principal(const Matrix& sample, Index record) {
  constexpr Index usual_bits = 4;
  DirectionCodec codec;
  codec.record_ = record;
  const Index dimension = sample.cols();
  const Index room = (record - norm_bytes) * byte_bits;
  codec.bits_ = static_cast<int>(std::clamp<Index>(room / dimension, std::min(usual_bits, room), most_bits));
  const Index components = std::min(dimension, room / codec.bits_);
  MatrixDouble directions = sample.cast<double>();
  for (Index i = 0; i < directions.rows(); ++i) {
    const double norm = directions.row(i).norm();
    if (norm > 0) directions.row(i) /= norm;
  }
  const Eigen::MatrixXd moments =
      directions.transpose() * directions / static_cast<double>(std::max<Index>(1, directions.rows()));
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(moments);
  codec.axes_ = solver.eigenvectors().rightCols(components).rowwise().reverse().transpose();
  for (Index i = 0; i < components; ++i) {
    codec.spread_.push_back(std::sqrt(std::max(0.0, solver.eigenvalues()[dimension - 1 - i])));
  }
  codec.shared_ = 4 * components * (dimension + 1);
  return codec;
}

void DirectionCodec::encode(std::span<const float> vector, std::vector<std::uint8_t>& record) const {
  const std::size_t end = record.size() + static_cast<std::size_t>(record_);
  const Eigen::VectorXd exact = Eigen::Map<const Eigen::VectorXf>(vector.data(), std::ssize(vector)).cast<double>();
  const auto norm = static_cast<float>(exact.norm());
  const auto norm_bits = std::bit_cast<std::uint32_t>(norm);
  put16(static_cast<std::uint16_t>(norm_bits & 0xFFFFU), record);
  put16(static_cast<std::uint16_t>(norm_bits >> 16U), record);
  const Eigen::VectorXd along = axes_ * exact;
  const double step = normal_steps[static_cast<std::size_t>(bits_ - 1)];
  const double half = std::ldexp(1.0, bits_ - 1);
  std::vector<std::uint32_t> codes;
  for (Index i = 0; i < along.size(); ++i) {
    const double unit = static_cast<double>(norm) * spread_[static_cast<std::size_t>(i)] * step;
    const double code = unit > 0 ? std::floor(along[i] / unit) + half : half;
    codes.push_back(static_cast<std::uint32_t>(std::clamp(code, 0.0, 2 * half - 1)));
  }
  pack_codes(codes, bits_, record);
  record.resize(end, 0);
}

void DirectionCodec::decode(std::span<const std::uint8_t> record, std::span<float> vector) const {
  const auto norm = std::bit_cast<float>(static_cast<std::uint32_t>(get16(record)) |
                                         (static_cast<std::uint32_t>(get16(record.subspan(2))) << 16U));
  const std::vector<std::uint32_t> codes = unpack_codes(record.subspan(norm_bytes), components(), bits_);
  const double step = normal_steps[static_cast<std::size_t>(bits_ - 1)];
  const double half = std::ldexp(1.0, bits_ - 1);
  Eigen::VectorXd along(components());
  for (Index i = 0; i < components(); ++i) {
    const auto place = static_cast<std::size_t>(i);
    along[i] = (codes[place] - half + 0.5) * step * spread_[place] * static_cast<double>(norm);
  }
  const Eigen::VectorXd decoded = axes_.transpose() * along;
  for (std::size_t i = 0; i < vector.size(); ++i) vector[i] = static_cast<float>(decoded[static_cast<Index>(i)]);
}

}  // namespace evictsim::models
