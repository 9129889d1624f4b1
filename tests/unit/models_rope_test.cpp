// Does RoPE rotate by the angles that the frequencies say, and does its inverse undo it?
#include <catch2/catch.hpp>
#include <cmath>
#include <complex>
#include <random>
#include <vector>

#include "models/rope.h"
#include "traces/error.h"

namespace {

using evictsim::models::Rope;
using evictsim::traces::RopeLayout;

std::vector<double> random_head(std::mt19937_64& generator, std::size_t dim) {
  std::normal_distribution<double> normal;
  std::vector<double> head(dim);
  for (double& value : head) value = normal(generator);
  return head;
}

std::vector<double> frequencies(std::size_t pairs) {
  std::vector<double> inv_freq;
  for (std::size_t i = 0; i < pairs; ++i) {
    inv_freq.push_back(std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(pairs)));
  }
  return inv_freq;
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace

TEST_CASE("inverse undoes rotation") {
  const auto layout = GENERATE(RopeLayout::half, RopeLayout::interleaved, RopeLayout::none);
  const auto pairs = GENERATE(std::size_t{2}, std::size_t{8});  // of a head of 16: partly and fully rotated
  const double scaling = GENERATE(1.0, 1.3);
  const double position = GENERATE(0.0, 1.0, 12345.0);
  const Rope rope(layout, frequencies(pairs), scaling);
  std::mt19937_64 generator(7);
  const std::vector<double> head = random_head(generator, 16);

  std::vector<double> turned = head;
  rope.apply(std::span<double>(turned), position);
  rope.invert(std::span<double>(turned), position);
  for (std::size_t i = 0; i < head.size(); ++i) CHECK(turned[i] == Approx(head[i]).margin(1e-13));

  std::vector<float> single(head.begin(), head.end());
  rope.apply(std::span<float>(single), position);
  rope.invert(std::span<float>(single), position);
  for (std::size_t i = 0; i < head.size(); ++i) CHECK(single[i] == Approx(head[i]).margin(1e-6));
}

TEST_CASE("rotation is multiplication by exp(i angle) of every pair") {
  const auto layout = GENERATE(RopeLayout::half, RopeLayout::interleaved);
  const std::size_t pairs = GENERATE(std::size_t{3}, std::size_t{6});
  const double scaling = GENERATE(1.0, 0.8);
  const double position = 977;
  const std::vector<double> inv_freq = frequencies(pairs);
  const Rope rope(layout, inv_freq, scaling);
  std::mt19937_64 generator(8);
  const std::vector<double> head = random_head(generator, 12);
  std::vector<double> turned = head;
  rope.apply(std::span<double>(turned), position);
  for (std::size_t i = 0; i < pairs; ++i) {
    const std::size_t first = layout == RopeLayout::half ? i : 2 * i;
    const std::size_t second = layout == RopeLayout::half ? i + pairs : 2 * i + 1;
    CHECK(rope.first_of_pair(i) == first);
    CHECK(rope.second_of_pair(i) == second);
    const std::complex<double> expected =
        std::complex<double>(head[first], head[second]) * std::polar(scaling, position * inv_freq[i]);
    CHECK(turned[first] == Approx(expected.real()).margin(1e-12));
    CHECK(turned[second] == Approx(expected.imag()).margin(1e-12));
  }
  for (std::size_t i = 2 * pairs; i < head.size(); ++i) CHECK(turned[i] == head[i]);
}

TEST_CASE("without a layout nothing turns") {
  const Rope rope(RopeLayout::none, frequencies(4), 2.0);
  std::vector<double> head = {1, 2, 3, 4, 5, 6, 7, 8};
  rope.apply(std::span<double>(head), 100);
  CHECK(head == std::vector<double>{1, 2, 3, 4, 5, 6, 7, 8});
}

TEST_CASE("a product of rotated vectors depends on the distance of their positions only") {
  const auto layout = GENERATE(RopeLayout::half, RopeLayout::interleaved);
  const double scaling = 1.1;
  const Rope rope(layout, frequencies(6), scaling);
  std::mt19937_64 generator(9);
  const std::vector<double> query = random_head(generator, 12);
  const std::vector<double> key = random_head(generator, 12);
  const auto logit = [&](double query_position, double key_position) {
    std::vector<double> q = query;
    std::vector<double> k = key;
    rope.apply(std::span<double>(q), query_position);
    rope.apply(std::span<double>(k), key_position);
    return dot(q, k);
  };
  for (const double shift : {1.0, 500.0, 4000.0}) {
    CHECK(logit(17 + shift, 3 + shift) == Approx(logit(17, 3)).margin(1e-10));
    CHECK(logit(shift, shift) == Approx(scaling * scaling * dot(query, key)).margin(1e-10));
  }
  CHECK(std::abs(logit(17, 3) - logit(18, 3)) > 1e-3);
}

TEST_CASE("a scaling that cannot be undone is refused") {
  const double scaling = GENERATE(0.0, -1.0, std::nan(""));
  CHECK_THROWS_AS(Rope(RopeLayout::half, frequencies(2), scaling), evictsim::Error);
}
