// Do the codes of keys and values take the bytes they say, and decode to what their formulas give in double precision?
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "models/kv_codec.h"
#include "traces/half.h"

namespace {

using namespace evictsim;
using namespace evictsim::models;

std::vector<float> random_numbers(std::size_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> numbers(count);
  for (float& number : numbers) number = normal(generator);
  return numbers;
}

double half(double value) { return traces::half_to_float(traces::float_to_half(static_cast<float>(value))); }

double mean_square(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
  return sum / static_cast<double>(a.size());
}

}  // namespace

TEST_CASE("codes of any width pack into the fewest whole bytes and come back") {
  for (int bits = 1; bits <= 16; ++bits) {
    std::vector<std::uint32_t> codes;
    for (std::uint32_t i = 0; i < 21; ++i) codes.push_back((i * 40503U + 7) % (1U << bits));
    std::vector<std::uint8_t> bytes = {0xAB};
    pack_codes(codes, bits, bytes);
    CHECK(bytes.front() == 0xAB);
    CHECK(std::ssize(bytes) - 1 == packed_bytes(21, bits));
    CHECK(packed_bytes(21, bits) == static_cast<Index>(std::ceil(21 * bits / 8.0)));
    CHECK(unpack_codes(std::span<const std::uint8_t>(bytes).subspan(1), 21, bits) == codes);
  }
  std::vector<std::uint8_t> bytes;
  pack_codes(std::vector<std::uint32_t>{1, 2, 3, 0, 2}, 2, bytes);
  CHECK(bytes == std::vector<std::uint8_t>{0b00111001, 0b00000010});
}

TEST_CASE("uniform codes are KIVI's: a float16 zero and scale beside b bits a number") {
  for (const int bits : {2, 4}) {
    const std::vector<float> numbers = random_numbers(32, 3);
    const UniformCodec codec{bits};
    std::vector<std::uint8_t> bytes;
    codec.encode(numbers, bytes);
    CHECK(std::ssize(bytes) == codec.bytes(32));
    CHECK(codec.bytes(32) == 32 * bits / 8 + 4);
    std::vector<float> decoded(numbers.size());
    codec.decode(bytes, decoded);
    const double zero = half(*std::min_element(numbers.begin(), numbers.end()));
    const double scale = half((static_cast<double>(*std::max_element(numbers.begin(), numbers.end())) -
                               static_cast<double>(*std::min_element(numbers.begin(), numbers.end()))) /
                              ((1 << bits) - 1));
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      const double code = std::clamp(std::nearbyint((numbers[i] - zero) / scale), 0.0, std::pow(2.0, bits) - 1);
      CHECK(decoded[i] == static_cast<float>(code * scale + zero));
    }
  }
  std::vector<std::uint8_t> bytes;
  UniformCodec{2}.encode(std::vector<float>{0, 1, 2, 3}, bytes);  // exact: zero 0, scale 1
  std::vector<float> decoded(4);
  UniformCodec{2}.decode(bytes, decoded);
  CHECK(decoded == std::vector<float>{0, 1, 2, 3});
  bytes.clear();
  UniformCodec{2}.encode(std::vector<float>{0.5F, 0.5F}, bytes);
  decoded.resize(2);
  UniformCodec{2}.decode(bytes, decoded);
  CHECK(decoded == std::vector<float>{0.5F, 0.5F});
}

TEST_CASE("k-means levels sit at the means of what is nearest to them") {
  CHECK(kmeans_levels({5, 1, 1, 6, 5, 6}, 2) == std::vector<float>{1, 5.5F});
  CHECK(kmeans_levels({}, 2) == std::vector<float>{0, 0});
  const std::vector<float> numbers = random_numbers(4000, 11);
  const std::vector<float> levels = kmeans_levels(numbers, 8);
  REQUIRE(levels.size() == 8);
  CHECK(std::is_sorted(levels.begin(), levels.end()));
  double distortion = 0;
  for (const float number : numbers) {
    double best = 1e9;
    for (const float level : levels) best = std::min(best, std::pow(static_cast<double>(number - level), 2));
    distortion += best / static_cast<double>(numbers.size());
  }
  // The least possible for a normal variable and eight levels is 0.0345 (Max, 1960); 4000 draws scatter by a few
  // percent.
  CHECK(distortion < 0.040);
}

TEST_CASE("non-uniform codes keep outliers beside the levels") {
  const NonuniformCodec codec(2, {-1, -0.25F, 0.25F, 1});
  const std::vector<float> numbers = {-2, 0.4F, 2, 9, 0};
  const std::vector<float> lower(5, -2), upper(5, 2);
  std::vector<std::uint8_t> bytes;
  codec.encode(numbers, lower, upper, std::vector<Index>{3}, bytes);
  CHECK(std::ssize(bytes) == codec.bytes(5, 1));
  CHECK(codec.bytes(5, 1) == 2 + 2 + 4);
  std::vector<float> decoded(5);
  codec.decode(bytes, lower, upper, decoded);
  // 0 lies as far from -0.25 as from 0.25: the lower level.
  CHECK(decoded == std::vector<float>{-2, 0.5F, 2, 9, -0.5F});
}

TEST_CASE("direction codes fill their record exactly and their error falls with its size") {
  for (const Index dimension : {8, 64, 128, 192, 1024}) {
    const std::vector<float> vector = random_numbers(static_cast<std::size_t>(dimension), 5);
    double last = 2;
    for (const Index record : {20, 52, 104, 400}) {
      const DirectionCodec codec = DirectionCodec::random(dimension, record, std::mt19937_64(1));
      std::vector<std::uint8_t> bytes;
      codec.encode(vector, bytes);
      CHECK(std::ssize(bytes) == record);
      CHECK(4 + packed_bytes(codec.components(), codec.bits()) <= record);
      std::vector<float> decoded(vector.size());
      codec.decode(bytes, decoded);
      const double error = mean_square(vector, decoded);
      CHECK(error < std::max(last, 1e-3));
      last = error;
    }
  }
}

TEST_CASE("52 bytes for 128 components are a norm and three bits each") {
  const DirectionCodec codec = DirectionCodec::random(128, 52, std::mt19937_64(1));
  CHECK(codec.bits() == 3);
  CHECK(codec.components() == 128);
  double error = 0;
  for (unsigned seed = 0; seed < 20; ++seed) {
    const std::vector<float> vector = random_numbers(128, seed);
    std::vector<std::uint8_t> bytes;
    codec.encode(vector, bytes);
    std::vector<float> decoded(128);
    codec.decode(bytes, decoded);
    error += mean_square(vector, decoded) / 20;
  }
  // Eight even levels for a normal variable: 0.0374 at best (Max, 1960).
  CHECK(error == Approx(0.0374).epsilon(0.15));
}

TEST_CASE("one-bit components give the sign times the mean size along each axis") {
  const DirectionCodec codec = DirectionCodec::random(1024, 68, std::mt19937_64(1));
  CHECK(codec.bits() == 1);
  CHECK(codec.components() == 512);
  const std::vector<float> vector = random_numbers(1024, 2);
  std::vector<std::uint8_t> bytes;
  codec.encode(vector, bytes);
  std::vector<float> decoded(1024);
  codec.decode(bytes, decoded);
  const double product = std::inner_product(vector.begin(), vector.end(), decoded.begin(), 0.0);
  const double norm2 = std::inner_product(vector.begin(), vector.end(), vector.begin(), 0.0);
  // Half of the axes, each with sqrt(2 / pi) of its size twice over: 1/2 * 2 / pi of the squared norm.
  CHECK(product / norm2 == Approx(1 / std::acos(-1.0)).epsilon(0.1));
}

TEST_CASE("principal axes code vectors of a low-rank family far better than random ones") {
  const std::vector<float> base = random_numbers(4 * 64, 9);
  std::mt19937 generator(4);
  std::normal_distribution<float> normal;
  Matrix sample(200, 64);
  for (Index i = 0; i < sample.rows(); ++i) {
    sample.row(i).setZero();
    for (int k = 0; k < 4; ++k) {
      const float weight = normal(generator);
      for (Index c = 0; c < 64; ++c) sample(i, c) += weight * base[static_cast<std::size_t>(k * 64 + c)];
    }
  }
  const DirectionCodec principal = DirectionCodec::principal(sample, 20);
  const DirectionCodec random = DirectionCodec::random(64, 20, std::mt19937_64(1));
  CHECK(principal.components() * principal.bits() <= 16 * 8);
  double principal_error = 0, random_error = 0;
  for (Index i = 0; i < 50; ++i) {
    const std::vector<float> vector(sample.row(i).data(), sample.row(i).data() + 64);
    for (const DirectionCodec* codec : {&principal, &random}) {
      std::vector<std::uint8_t> bytes;
      codec->encode(vector, bytes);
      CHECK(std::ssize(bytes) == 20);
      std::vector<float> decoded(64);
      codec->decode(bytes, decoded);
      (codec == &principal ? principal_error : random_error) += mean_square(vector, decoded);
    }
  }
  CHECK(principal_error < 0.2 * random_error);
}
