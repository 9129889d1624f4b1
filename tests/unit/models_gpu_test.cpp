// Are descriptions of GPUs read and written without loss, found by name, and refused with file and field when wrong?
#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "models/data_files.h"
#include "models/gpu.h"
#include "traces/error.h"

using namespace evictsim;
using namespace evictsim::models;
namespace fs = std::filesystem;

namespace {

const fs::path scratch = EVICTSIM_TEST_SCRATCH;

/// Descriptions of the source tree and, before them, of a user's folder.
void use_data() {
  fs::create_directories(scratch / "mine/gpus");
  setenv("EVICTSIM_DATA", ((scratch / "mine").string() + ":" EVICTSIM_SOURCE_DIR "/models").c_str(), 1);
}

nlohmann::json h100() {
  std::ifstream stream(EVICTSIM_SOURCE_DIR "/models/gpus/h100-80gb-sxm.json");
  return nlohmann::json::parse(stream);
}

fs::path write(const std::string& text, const std::string& name = "some.json") {
  const fs::path file = scratch / name;
  std::ofstream(file) << text;
  return file;
}

/// The error of reading `object`; its code and its line.
std::pair<ErrorCode, std::string> error_of(const std::string& text) {
  const fs::path file = write(text);
  try {
    read_gpu(file);
  } catch (const Error& error) {
    return {error.code(), error.what()};
  }
  FAIL("no error: " << text);
  return {};
}

void refused(const nlohmann::json& object, ErrorCode code, const std::string& field) {
  CAPTURE(object.dump());
  const auto [found, line] = error_of(object.dump());
  CHECK(found == code);
  CHECK_THAT(line, Catch::Contains("some.json") && Catch::Contains(field));
}

}  // namespace

TEST_CASE("the GPUs that come with evictsim are complete") {
  use_data();
  const std::vector<std::string> names = data_names("gpus");
  REQUIRE(names.size() >= 5);
  for (const std::string& name : names) {
    CAPTURE(name);
    const Gpu gpu = find_gpu(name);
    CHECK(gpu.name == name);
    CHECK_FALSE(gpu.measured);
    CHECK(gpu.l2_bytes.has_value() == gpu.multiprocessors.has_value());
    CHECK(gpu.flops_per_second.contains("bf16"));
    REQUIRE(gpu.host_to_device);
    CHECK(gpu.host_to_device->bytes_per_second < gpu.memory_bytes_per_second);
    CHECK(gpu.visible_bytes.value_or(0) <= gpu.memory_bytes);
    REQUIRE(gpu.device_names.size() == 1);
    const auto same = find_gpu_of_device(gpu.device_names.front());
    REQUIRE(same);
    CHECK(same->name == name);
  }
  const Gpu gpu = find_gpu("h100-80gb-sxm");
  CHECK(gpu.memory_bytes_per_second == 3.35e12);
  CHECK(gpu.flops_per_second.at("bf16") == 989.4e12);
  CHECK(gpu.peer.value().bytes_per_second == 450e9);
  CHECK_FALSE(find_gpu("l40s").peer);
  CHECK_FALSE(find_gpu_of_device("no such device"));
  // Names that other tools have for them.
  for (const auto& [alias, name] : {std::pair{"h100_sxm", "h100-80gb-sxm"},
                                    {"h200_sxm", "h200-141gb-sxm"},
                                    {"b200_sxm", "b200-180gb-sxm"},
                                    {"b300_sxm", "b300-288gb-sxm"},
                                    {"a100_sxm", "a100-80gb-sxm"},
                                    {"gb200", "gb200"},
                                    {"gb300", "gb300"}}) {
    CHECK(find_gpu(alias).name == name);
  }
}

TEST_CASE("a user adds a GPU by a file") {
  use_data();
  nlohmann::json object = h100();
  object["name"] = "mine";
  object["memory"]["read_bytes_per_second"] = 1e12;
  const fs::path file = write(object.dump(), "mine/gpus/mine.json");
  CHECK(find_gpu("mine").memory_bytes_per_second == 1e12);
  CHECK(find_gpu(file.string()).name == "mine");
  // A user's file comes before the one that is installed.
  object["name"] = "l40s";
  const fs::path other = write(object.dump(), "mine/gpus/l40s.json");
  CHECK(find_gpu("l40s").memory_bytes_per_second == 1e12);
  fs::remove(file);
  fs::remove(other);
  CHECK_THROWS_WITH(find_gpu("mine"), Catch::Contains("gpus = mine") && Catch::Contains("l40s, mi300x"));
  CHECK_THROWS_AS(find_gpu("./mine"), Error);
}

TEST_CASE("everything that is written is read again") {
  Gpu gpu;
  gpu.name = "made-up";
  gpu.product = "Made up";
  gpu.aliases = {"made", "up"};
  gpu.device_names = {"a", "b"};
  gpu.measured = true;
  gpu.sources = {"this test"};
  gpu.compute_capability = "9.0";
  gpu.multiprocessors = 3;
  gpu.memory_bytes = 85'899'345'921;
  gpu.visible_bytes = 85'000'000'001;
  gpu.memory_bytes_per_second = 1.0 / 3;
  gpu.l2_bytes = 7;
  gpu.flops_per_second = {{"bf16", 1e15 / 3}, {"fp8", 2}};
  gpu.host_to_device = TransferRate{1e-6 / 3, 2e9 / 3, 0.1};
  gpu.device_to_host = TransferRate{std::nullopt, 3, std::nullopt};
  gpu.host_to_device_pageable = TransferRate{0, 4, std::nullopt};
  gpu.device_to_host_pageable = TransferRate{1, 5, std::nullopt};
  gpu.peer = TransferRate{2, 6, std::nullopt};
  gpu.decode_attention = DecodeAttentionRate{"f16", 4, 128, 1e-6, 2e-9, 3e-9, 4e-9, 0.05};
  gpu.engine_steps = EngineSteps{10, 7e-3, 1e-3, 2e-3, 3e-3, 4e-4, 6e-4};
  gpu.measurements = {{"peer", {{"bytes", 4}, {"peer", 1}}, 1e-5, 1e-7, 30, 2}};
  const fs::path file = scratch / "written.json", again = scratch / "again.json";
  write_gpu(file, gpu);
  const Gpu read = read_gpu(file);
  CHECK(read.memory_bytes == gpu.memory_bytes);
  CHECK(read.memory_bytes_per_second == gpu.memory_bytes_per_second);
  CHECK(read.flops_per_second == gpu.flops_per_second);
  CHECK(read.host_to_device->latency_seconds == gpu.host_to_device->latency_seconds);
  CHECK(read.measurements.front().conditions == gpu.measurements.front().conditions);
  write_gpu(again, read);
  const auto text = [](const fs::path& path) {
    std::ifstream stream(path);
    return std::string(std::istreambuf_iterator<char>(stream), {});
  };
  CHECK(text(file) == text(again));
  CHECK_THAT(text(file), Catch::Contains("seconds_per_longest_entry") && Catch::Contains("idle_seconds"));
  CHECK_FALSE(fs::exists(file.string() + ".partial"));
  CHECK_THROWS_WITH(write_gpu(scratch / "no such folder/gpu.json", gpu), Catch::Contains("no such folder"));
  CHECK_THROWS_AS(write_gpu(scratch, gpu), Error);
}

TEST_CASE("wrong descriptions are refused with file and field") {
  const nlohmann::json good = h100();
  const auto with = [&](const char* pointer, const nlohmann::json& value) {
    nlohmann::json object = good;
    object[nlohmann::json::json_pointer(pointer)] = value;
    return object;
  };
  const auto without = [&](const char* parent, const char* key) {
    nlohmann::json object = good;
    object[nlohmann::json::json_pointer(parent)].erase(key);
    return object;
  };
  refused(without("", "name"), ErrorCode::missing_data, "name");
  refused(without("", "memory"), ErrorCode::missing_data, "memory");
  refused(without("", "sources"), ErrorCode::missing_data, "sources");
  refused(without("/memory", "bytes"), ErrorCode::missing_data, "memory.bytes");
  refused(without("/peer", "bytes_per_second"), ErrorCode::missing_data, "peer.bytes_per_second");
  refused(with("/memory/bytes", -1), ErrorCode::invalid_value, "memory.bytes = -1");
  refused(with("/memory/bytes", 0.5), ErrorCode::invalid_value, "memory.bytes = 0.5");
  refused(with("/memory/bytes", 1e300), ErrorCode::invalid_value, "memory.bytes");
  refused(with("/memory/read_bytes_per_second", 0), ErrorCode::invalid_value, "memory.read_bytes_per_second = 0");
  refused(with("/memory/bytes", "80 GB"), ErrorCode::wrong_type, "memory.bytes = \"80 GB\"");
  refused(with("/memory", 80), ErrorCode::wrong_type, "memory");
  refused(with("/flops_per_second/bf17", 1), ErrorCode::unknown_name, "flops_per_second.bf17");
  refused(with("/flops_per_second/bf16", -5), ErrorCode::invalid_value, "flops_per_second.bf16 = -5");
  refused(with("/peer/latency_seconds", -1e-6), ErrorCode::invalid_value, "peer.latency_seconds");
  refused(with("/multiprocessors", 1e10), ErrorCode::invalid_value, "multiprocessors");
  refused(with("/bandwidth", 1), ErrorCode::unknown_name, "bandwidth");
  refused(with("/memory/size", 1), ErrorCode::unknown_name, "memory.size");
  refused(with("/origin", "guessed"), ErrorCode::invalid_value, "origin = \"guessed\"");
  refused(with("/sources", nlohmann::json::array()), ErrorCode::invalid_value, "sources");
  refused(with("/sources", {1, 2}), ErrorCode::wrong_type, "sources");
  refused(with("/name", ""), ErrorCode::wrong_type, "name");
  refused(with("/format", "other"), ErrorCode::invalid_value, "format");
  refused(with("/version", 2), ErrorCode::unsupported_version, "version");
  refused(with("/measurements", 3), ErrorCode::wrong_type, "measurements");
  refused(with("/measurements", {{{"quantity", "x"}}}), ErrorCode::missing_data, "measurements[0].conditions");
  refused(with("/engine_steps", {{"steps", 0}}), ErrorCode::invalid_value, "engine_steps.steps = 0");
  refused(with("/decode_attention", {{"element", "f16"}}), ErrorCode::missing_data, "decode_attention.group_size");
}

TEST_CASE("what is no JSON object is refused") {
  for (const char* text : {"", "{", "[]", "3", "{\"format\": \"evictsim-gpu\"", "{\"a\": 1e999}", "\xff\xfe"}) {
    CAPTURE(text);
    CHECK_THAT(error_of(text).second, Catch::Contains("some.json"));
  }
  CHECK_THROWS_AS(read_gpu(scratch / "absent.json"), Error);
  CHECK_THROWS_AS(read_gpu(scratch), Error);
}
