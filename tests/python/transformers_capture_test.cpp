// Is a captured transformers model whole: does its trace verify, and does attention over it give back what the model
// itself computed?
#include <hdf5.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "models/attention.h"
#include "models/projection.h"
#include "tests/python/python.h"
#include "traces/reader.h"
#include "traces/verify.h"

using namespace evictsim;
using namespace evictsim::traces;
using evictsim::test::with_adapters;
namespace fs = std::filesystem;

namespace {

std::vector<float> read_floats(hid_t file, const std::string& name) {
  const hid_t dataset = H5Dopen2(file, name.c_str(), H5P_DEFAULT);
  REQUIRE(dataset >= 0);
  const hid_t space = H5Dget_space(dataset);
  std::vector<float> values(static_cast<std::size_t>(H5Sget_simple_extent_npoints(space)));
  REQUIRE(H5Dread(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()) >= 0);
  H5Sclose(space);
  H5Dclose(dataset);
  return values;
}

/// Attention of every query over all that it sees, with the kernel that a replay runs on, behind W_O: [T, D].
models::Matrix replayed_output(const Reader& reader, std::size_t sequence, std::size_t place) {
  const Header& header = reader.header();
  const int layer = header.layers[place];
  const LayerTensors tensors = reader.read_layer(sequence, layer);
  const auto length = static_cast<models::Index>(tensors.length), width = static_cast<models::Index>(header.head_dim);
  REQUIRE(tensors.q_rows.size() == static_cast<std::size_t>(length));
  const int window = header.sliding_window.empty() ? 0 : header.sliding_window[place];
  std::vector<models::EntryRange> visible;
  for (models::Index row = 0; row < length; ++row) {
    visible.push_back(models::visible_entries(reader.sequences()[sequence].positions, row, window));
  }
  models::Matrix heads(length, header.num_query_heads * width);
  models::AttentionColumns columns;
  for (int head = 0; head < header.num_query_heads; ++head) {
    const int kv_head = head / header.group_size();
    const auto rows = [&](const std::vector<float>& values, int index) {
      return models::view(values.data() + index * length * width, length, width);
    };
    models::attend(rows(tensors.k, kv_head), rows(tensors.q, head), visible,
                   {header.attention_scale, header.logit_softcap}, false, columns);
    heads.middleCols(head * width, width) = columns.probability.transpose() * rows(tensors.v, kv_head);
  }
  const Tensor w_o = reader.read_weight(layer, LayerWeight::w_o).value();
  const models::OutputProjection projection(
      models::view(w_o.data.data(), header.hidden_size, header.num_query_heads * width), std::nullopt);
  return projection.project(heads);
}

/// Largest relative error of a row (L2 over D).
double largest_error(const models::Matrix& replayed, const std::vector<float>& own) {
  const models::MatrixView expected = models::view(own.data(), replayed.rows(), replayed.cols());
  double largest = 0;
  for (models::Index row = 0; row < replayed.rows(); ++row) {
    const double size = expected.row(row).cast<double>().norm();
    largest = std::max(largest, (replayed.row(row) - expected.row(row)).cast<double>().norm() / size);
  }
  return largest;
}

}  // namespace

TEST_CASE("the trace of a model gives its attention output back") {
  const fs::path folder = EVICTSIM_TEST_SCRATCH;
  REQUIRE(with_adapters("tests/python/transformers_capture.py " + folder.string()) == 0);
  int cases = 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    INFO(entry.path());
    if (!fs::exists(entry.path() / "own.h5")) continue;
    ++cases;
    CHECK(verify(entry.path() / "trace").empty());
    const hid_t own = H5Fopen((entry.path() / "own.h5").c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
    REQUIRE(own >= 0);
    for (const Reader& reader : open_traces({entry.path() / "trace"})) {
      CHECK(reader.header().layers.size() == 3);
      CHECK(reader.header().norm_kind.has_value());
      for (std::size_t sequence = 0; sequence < reader.sequences().size(); ++sequence) {
        const std::string request = reader.sequences()[sequence].request_id.value();
        INFO(request);
        for (std::size_t place = 0; place < reader.header().layers.size(); ++place) {
          const models::Matrix replayed = replayed_output(reader, sequence, place);
          const std::vector<float> expected =
              read_floats(own, request + "/" + layer_name(reader.header().layers[place]));
          REQUIRE(expected.size() == static_cast<std::size_t>(replayed.size()));
          // Both in float32, in another order of sums.
          CHECK(largest_error(replayed, expected) < 1e-5);
          CHECK(reader.has_hidden(sequence, reader.header().layers[place]));
        }
      }
    }
    H5Fclose(own);
  }
  CHECK(cases == 14);
}
