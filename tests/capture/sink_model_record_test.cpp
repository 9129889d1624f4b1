// Do the shards of a capture share their weights, does every reader find them, and is a wrong or missing record
// noticed?
#include <hdf5.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "tests/support/capture_engine.h"
#include "traces/error.h"
#include "traces/manifest.h"
#include "traces/merge.h"
#include "traces/reader.h"
#include "traces/slice.h"
#include "traces/verify.h"

using namespace evictsim;
using namespace evictsim::traces;
using namespace evictsim::traces::capture::test;
namespace fs = std::filesystem;

namespace {

float weight_of(float first, std::int64_t row, std::int64_t column) {
  return first + static_cast<float>(row * 32 + column) / 64;
}

/// Two shards with one request each, and weights that `first` decides.
void capture_into(const std::string& directory, float first, const std::string& options = "") {
  Engine engine;
  REQUIRE(engine.open(directory, "dtype=float32\nshard_bytes=1\n" + options) == EVICTSIM_CAPTURE_OK);
  // All heads of the model: what `merge` wants to know.
  const std::string text = engine.model_text() + "capture_first_query_head=0\ncapture_first_kv_head=0\n" +
                           "capture_all_query_heads=4\ncapture_all_kv_heads=2\n";
  REQUIRE(evictsim_capture_model(engine.capture, text.c_str()) == EVICTSIM_CAPTURE_OK);
  MadeTensor w_o(engine.hidden, 0, 32, Element::f32, Layout::compact,
                 [&](std::int64_t row, std::int64_t column) { return weight_of(first, row, column); });
  REQUIRE(evictsim_capture_weight(engine.capture, w_o.get(), EVICTSIM_CAPTURE_W_O, 1) == EVICTSIM_CAPTURE_OK);
  MadeTensor norm(engine.hidden, 0, 1, Element::f32, Layout::compact,
                  [](std::int64_t row, std::int64_t) { return static_cast<float>(row); });
  norm.get()->ndim = 1;
  REQUIRE(evictsim_capture_weight(engine.capture, norm.get(), EVICTSIM_CAPTURE_FINAL_NORM, 0) == EVICTSIM_CAPTURE_OK);
  for (const char* request : {"a", "b"}) {
    CHECK(engine.run(request + std::to_string(first), 10, 2) == EVICTSIM_CAPTURE_OK);
    CHECK(evictsim_capture_flush(engine.capture) == EVICTSIM_CAPTURE_OK);
  }
  CHECK(engine.close() == EVICTSIM_CAPTURE_OK);
}

std::string captured(const std::string& directory) {
  fs::remove_all(directory);
  capture_into(directory, 0);
  return directory;
}

fs::path record_in(const fs::path& directory) { return directory / read_manifest(directory).model_records.at(0).name; }

void require_weights(const Reader& reader, float first) {
  const Tensor w_o = reader.read_weight(1, LayerWeight::w_o).value();
  REQUIRE(w_o.shape == std::vector<std::size_t>{16, 32});
  for (std::size_t i = 0; i < w_o.data.size(); ++i) {
    REQUIRE(w_o.data[i] == weight_of(first, static_cast<std::int64_t>(i / 32), static_cast<std::int64_t>(i % 32)));
  }
  CHECK(reader.read_model_tensor(ModelTensor::final_norm).value().data[3] == 3);
  CHECK(!reader.has_weight(0, LayerWeight::w_o));
}

/// One number of W_O as any HDF5 program reads it.
float linked_weight(const fs::path& shard, std::size_t place) {
  std::vector<float> values(16 * 32);
  const hid_t file = H5Fopen(shard.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  const hid_t dataset = H5Dopen2(file, "/model/layer_001/w_o", H5P_DEFAULT);
  CHECK(H5Dread(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()) >= 0);
  H5Dclose(dataset);
  H5Fclose(file);
  return values.at(place);
}

ErrorCode code_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.code();
  }
  FAIL("nothing was thrown");
  return {};
}

std::int32_t reopened(const std::string& directory, const std::string& options = "") {
  Engine engine;
  const std::int32_t status = engine.open(directory, options);
  if (status == EVICTSIM_CAPTURE_OK) CHECK(engine.close() == EVICTSIM_CAPTURE_OK);
  return status;
}

/// Changes one byte in the middle of a file.
void alter(const fs::path& file) {
  std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
  const auto place = static_cast<std::streamoff>(fs::file_size(file) / 2);
  stream.seekg(place);
  const int byte = stream.get();
  stream.seekp(place);
  stream.put(static_cast<char>(byte ^ 1));
}

}  // namespace

TEST_CASE("shards share one model record, and each is a trace beside it") {
  const std::string directory = captured("shared");
  const Manifest manifest = read_manifest(directory);
  REQUIRE(manifest.model_records.size() == 1);
  REQUIRE(manifest.shards.size() == 2);
  CHECK(verify(directory).empty());
  for (const Shard& shard : manifest.shards) {
    const fs::path file = fs::path(directory) / shard.name;
    require_weights(Reader(file), 0);
    CHECK(verify(file).empty());
    // What knows nothing of records, such as h5py, follows the link.
    CHECK(linked_weight(file, 33) == 33.0F / 64);
  }
  CHECK(open_traces({directory}).size() == 2);
  // Copies stand alone.
  slice(fs::path(directory) / manifest.shards[0].name, "shared-slice.h5", {});
  merge({directory}, "shared-merged.h5", {});
  fs::remove(record_in(directory));
  require_weights(Reader("shared-slice.h5"), 0);
  require_weights(Reader("shared-merged.h5"), 0);
}

TEST_CASE("a capture that goes on uses the record that is there, and other weights get their own") {
  const std::string directory = captured("goes-on");
  capture_into(directory, 0, "check=contents");
  CHECK(read_manifest(directory).model_records.size() == 1);
  capture_into(directory, 5);
  const Manifest manifest = read_manifest(directory);
  CHECK(manifest.model_records.size() == 2);
  REQUIRE(manifest.shards.size() == 6);
  const std::vector<Reader> readers = open_traces({directory});
  for (std::size_t i = 0; i < readers.size(); ++i) require_weights(readers[i], i < 4 ? 0 : 5);
  CHECK(verify(directory).empty());
}

TEST_CASE("without weights there is no record, and one file alone has them in itself") {
  fs::remove_all("no-weights");
  Engine engine;
  REQUIRE(engine.open("no-weights", "") == EVICTSIM_CAPTURE_OK);
  REQUIRE(engine.model() == EVICTSIM_CAPTURE_OK);
  CHECK(engine.run("r", 5, 1) == EVICTSIM_CAPTURE_OK);
  CHECK(engine.close() == EVICTSIM_CAPTURE_OK);
  CHECK(read_manifest("no-weights").model_records.empty());
  fs::remove("alone.h5");
  capture_into("alone.h5", 2, "single_file=1");
  fs::create_directories("elsewhere");
  fs::rename("alone.h5", "elsewhere/alone.h5");
  require_weights(Reader("elsewhere/alone.h5"), 2);
}

TEST_CASE("a missing record is named") {
  const std::string directory = captured("missing-record");
  const fs::path record = record_in(directory);
  fs::remove(record);
  const fs::path shard = fs::path(directory) / read_manifest(directory).shards[0].name;
  CHECK(code_of([&] { const Reader reader(shard); }) == ErrorCode::file_not_found);
  CHECK(code_of([&] { open_traces({directory}); }) == ErrorCode::file_not_found);
  REQUIRE(!verify(directory).empty());
  CHECK(verify(directory)[0].line.find(record.filename().string()) != std::string::npos);
  CHECK(reopened(directory) == EVICTSIM_CAPTURE_FILE_NOT_FOUND);
}

TEST_CASE("altered files are noticed by every reader, and by a capture that goes on when it is asked to look") {
  const std::string directory = captured("altered");
  const fs::path file = GENERATE(0, 1) == 0 ? record_in("altered") : fs::path("altered/shard-000001.h5");
  alter(file);
  CHECK(code_of([&] { open_traces({directory}); }) == ErrorCode::checksum_mismatch);
  CHECK(!verify(directory).empty());
  CHECK(reopened(directory) == EVICTSIM_CAPTURE_OK);
  CHECK(reopened(directory, "check=contents") == EVICTSIM_CAPTURE_IO_FAILURE);
  std::ofstream(file, std::ios::app) << "x";
  CHECK(reopened(directory) == EVICTSIM_CAPTURE_IO_FAILURE);
}

TEST_CASE("a record that was sealed and not yet entered is entered, unless it is not what its name says") {
  const std::string directory = captured("sealed-record");
  const fs::path record = record_in(directory);
  fs::remove(fs::path(directory) / manifest_name);
  SECTION("whole") {
    CHECK(reopened(directory) == EVICTSIM_CAPTURE_OK);
    CHECK(read_manifest(directory).model_records.size() == 1);
    CHECK(read_manifest(directory).shards.size() == 2);
    CHECK(verify(directory).empty());
  }
  SECTION("altered") {
    alter(record);
    CHECK(reopened(directory) == EVICTSIM_CAPTURE_IO_FAILURE);
  }
}

TEST_CASE("links to anything but a model record beside the trace are refused") {
  const std::string directory = captured("links");
  const std::string shard = directory + "/shard-000000.h5";
  const std::string record = record_in(directory).filename().string();
  fs::copy_file(shard, directory + "/other.h5");
  const hid_t file = H5Fopen(shard.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  REQUIRE(file >= 0);
  REQUIRE(H5Ldelete(file, "/model/layer_001", H5P_DEFAULT) >= 0);
  ErrorCode expected = ErrorCode::wrong_type;
  const auto link = [&](const std::string& target, const char* object, const char* place) {
    REQUIRE(H5Lcreate_external(target.c_str(), object, file, place, H5P_DEFAULT, H5P_DEFAULT) >= 0);
  };
  SECTION("another directory") { link("../links/" + record, "/layer_001", "/model/layer_001"); }
  SECTION("another object") { link(record, "/layer_000", "/model/layer_001"); }
  SECTION("a second file") { link("other.h5", "/layer_001", "/model/layer_001"); }
  SECTION("some weights here, some there") {
    const hid_t group = H5Gcreate2(file, "/model/layer_001", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    REQUIRE(group >= 0);
    H5Gclose(group);
  }
  SECTION("a file that is no record") {
    REQUIRE(H5Ldelete(file, "/model/final_norm", H5P_DEFAULT) >= 0);
    link("other.h5", "/layer_001", "/model/layer_001");
    expected = ErrorCode::not_a_trace;
  }
  SECTION("a tensor of a sequence") {
    REQUIRE(H5Ldelete(file, "/sequences/000000/layer_001/k", H5P_DEFAULT) >= 0);
    link(record, "/layer_001", "/model/layer_001");
    link("other.h5", "/sequences/000000/layer_001/k", "/sequences/000000/layer_001/k");
  }
  H5Fclose(file);
  CHECK(code_of([&] { const Reader reader(shard); }) == expected);
  CHECK(!verify(shard).empty());
}
