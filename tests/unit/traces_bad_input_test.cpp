// Does every broken rule of the format give its error, in one line that names file, dataset and rule?
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <fstream>
#include <limits>

#include "tests/support/small_trace.h"
#include "traces/error.h"
#include "traces/reader.h"
#include "traces/verify.h"

using namespace evictsim;
using namespace evictsim::traces;
using namespace evictsim::traces::test;

namespace {

struct Case {
  const char* name;
  std::function<void(hid_t)> edit;
  ErrorCode code;
  const char* dataset;  ///< must be named
  const char* rule;     ///< must be in the message
};

const char* const layer = "/sequences/000000/layer_003";

void remove_link(hid_t file, const std::string& name) { H5Ldelete(file, name.c_str(), H5P_DEFAULT); }

/// Faults seen when opening.
std::vector<Case> structural_cases() {
  using Code = ErrorCode;
  const auto zeros = [](std::size_t count) { return std::vector<float>(count, 0.0F); };
  const auto counted = [](int count, int offset = 0) {
    std::vector<int> values(static_cast<std::size_t>(count));
    std::iota(values.begin(), values.end(), offset);
    return values;
  };
  std::vector<Case> cases = {
      {"another format", [](hid_t f) { set_text(f, "/", "format", "other"); }, Code::not_a_trace, "/@format",
       "evictsim-trace"},
      {"newer version", [](hid_t f) { set_integer(f, "/", "format_version", 2); }, Code::unsupported_version,
       "/@format_version", "newer"},
      {"version 0", [](hid_t f) { set_integer(f, "/", "format_version", 0); }, Code::invalid_value, "/@format_version",
       "must be 1"},
      {"number for a string", [](hid_t f) { set_integer(f, "/", "model", 3); }, Code::wrong_type, "/@model", "string"},
      {"string for a number", [](hid_t f) { set_text(f, "/", "head_dim", "8"); }, Code::wrong_type, "/@head_dim",
       "integer"},
      {"no heads", [](hid_t f) { set_integer(f, "/", "num_kv_heads", 0); }, Code::invalid_value, "/@num_kv_heads",
       "between"},
      {"negative width", [](hid_t f) { set_integer(f, "/", "hidden_size", -1); }, Code::invalid_value, "/@hidden_size",
       "between"},
      {"heads not divisible", [](hid_t f) { set_integer(f, "/", "num_kv_heads", 3); }, Code::invalid_value,
       "/@num_query_heads", "multiple"},
      {"unknown rope layout", [](hid_t f) { set_text(f, "/", "rope_layout", "spiral"); }, Code::invalid_value,
       "/@rope_layout", "interleaved"},
      {"odd rotary_dim", [](hid_t f) { set_integer(f, "/", "rotary_dim", 5); }, Code::invalid_value, "/@rotary_dim",
       "even"},
      {"rotary_dim above head_dim", [](hid_t f) { set_integer(f, "/", "rotary_dim", 10); }, Code::invalid_value,
       "/@rotary_dim", "head_dim"},
      {"inv_freq of another length", [](hid_t f) { set_integer(f, "/", "rotary_dim", 8); }, Code::wrong_shape,
       "/model/inv_freq", "rotary_dim / 2"},
      {"layers not ascending",
       [](hid_t f) {
         replace_integers(f, "/model/layers", {2}, {3, 1});
       },
       Code::invalid_value, "/model/layers", "ascending"},
      {"layer beyond the model",
       [](hid_t f) {
         replace_integers(f, "/model/layers", {2}, {1, 4});
       },
       Code::invalid_value, "/model/layers", "num_layers"},
      {"layers of rank 2",
       [](hid_t f) {
         replace_integers(f, "/model/layers", {1, 2}, {1, 3});
       },
       Code::wrong_shape, "/model/layers", "[L]"},
      {"sliding_window of another length", [](hid_t f) { replace_integers(f, "/model/sliding_window", {1}, {0}); },
       Code::wrong_shape, "/model/sliding_window", "[L]"},
      {"w_o transposed",
       [zeros](hid_t f) {
         replace_floats(f, "/model/layer_001/w_o", {32, 12}, zeros(384));
       },
       Code::wrong_shape, "/model/layer_001/w_o", "[D, Hq*d] = [12, 32]"},
      {"prompt_length 0", [](hid_t f) { set_integer(f, "/sequences/000000", "prompt_length", 0); }, Code::invalid_value,
       "/sequences/000000@prompt_length", "between 1 and length"},
      {"prompt_length above length", [](hid_t f) { set_integer(f, "/sequences/000000", "prompt_length", 21); },
       Code::invalid_value, "/sequences/000000@prompt_length", "between 1 and length"},
      {"length above the data", [](hid_t f) { set_integer(f, "/sequences/000000", "length", 21); }, Code::wrong_shape,
       "/sequences/000000/", "[21]"},
      {"positions not increasing",
       [counted](hid_t f) {
         auto p = counted(20);
         p[7] = p[6];
         replace_integers(f, "/sequences/000000/positions", {20}, p);
       },
       Code::invalid_value, "/sequences/000000/positions", "strictly increasing"},
      {"negative position",
       [counted](hid_t f) { replace_integers(f, "/sequences/000000/positions", {20}, counted(20, -1)); },
       Code::invalid_value, "/sequences/000000/positions", "negative"},
      {"token outside the vocabulary",
       [counted](hid_t f) { replace_integers(f, "/sequences/000000/token_ids", {20}, counted(20, 31)); },
       Code::invalid_value, "/sequences/000000/token_ids", "vocabulary"},
      {"tokens as floats", [zeros](hid_t f) { replace_floats(f, "/sequences/000000/token_ids", {20}, zeros(20)); },
       Code::wrong_type, "/sequences/000000/token_ids", "integers"},
      {"texts of too few tokens",
       [](hid_t f) {
         replace_integers(f, "/sequences/000000/token_ends", {2}, {0, 1});
       },
       Code::wrong_shape, "/sequences/000000/token_ends", "[T]"},
      {"texts that go back",
       [counted](hid_t f) {
         auto ends = counted(20);
         ends[7] = 2;
         replace_integers(f, "/sequences/000000/token_ends", {20}, ends);
       },
       Code::invalid_value, "/sequences/000000/token_ends", "decrease"},
      {"texts beyond their bytes",
       [counted](hid_t f) { replace_integers(f, "/sequences/000000/token_ends", {20}, counted(20, 1000)); },
       Code::invalid_value, "/sequences/000000/token_ends", "inside token_bytes"},
      {"bytes of no token",
       [counted](hid_t f) { replace_integers(f, "/sequences/000000/token_ends", {20}, counted(20)); },
       Code::invalid_value, "/sequences/000000/token_ends", "end where token_bytes does"},
      {"span beyond the end",
       [](hid_t f) {
         replace_integers(f, "/sequences/000000/spans/evidence", {1, 2}, {3, 21});
       },
       Code::invalid_value, "/sequences/000000/spans/evidence", "length"},
      {"span backwards",
       [](hid_t f) {
         replace_integers(f, "/sequences/000000/spans/evidence", {1, 2}, {5, 3});
       },
       Code::invalid_value, "/sequences/000000/spans/evidence", "first <= last"},
      {"spans of rank 1",
       [](hid_t f) {
         replace_integers(f, "/sequences/000000/spans/evidence", {2}, {3, 5});
       },
       Code::wrong_shape, "/sequences/000000/spans/evidence", "[m, 2]"},
      {"q_rows unsorted",
       [](hid_t f) {
         replace_integers(f, "/sequences/000000/layer_003/q_rows", {6}, {4, 9, 8, 17, 18, 19});
       },
       Code::invalid_value, "/sequences/000000/layer_003/q_rows", "strictly increasing"},
      {"q_rows out of range",
       [](hid_t f) {
         replace_integers(f, "/sequences/000000/layer_003/q_rows", {6}, {4, 9, 16, 17, 18, 20});
       },
       Code::invalid_value, "/sequences/000000/layer_003/q_rows", "length - 1"},
      {"q_rows shorter than q",
       [](hid_t f) {
         replace_integers(f, "/sequences/000000/layer_003/q_rows", {5}, {4, 9, 16, 17, 18});
       },
       Code::wrong_shape, "/sequences/000000/layer_003/q", "[Tq, Hq, d]"},
      {"k of rank 2",
       [zeros](hid_t f) {
         replace_floats(f, "/sequences/000000/layer_003/k", {20, 16}, zeros(320));
       },
       Code::wrong_shape, "/sequences/000000/layer_003/k", "[T, Hkv, d]"},
      {"v with repeated heads",
       [zeros](hid_t f) {
         replace_floats(f, "/sequences/000000/layer_003/v", {20, 4, 8}, zeros(640));
       },
       Code::wrong_shape, "/sequences/000000/layer_003/v", "[20, 2, 8]"},
      {"k as float64",
       [zeros](hid_t f) {
         replace_dataset(f, "/sequences/000000/layer_003/k", {20, 2, 8}, H5T_IEEE_F64LE, H5T_NATIVE_FLOAT,
                         zeros(320).data());
       },
       Code::wrong_type, "/sequences/000000/layer_003/k", "bfloat16"},
      {"q as integers",
       [](hid_t f) {
         replace_integers(f, "/sequences/000000/layer_003/q", {6, 4, 8}, std::vector<int>(192, 1));
       },
       Code::wrong_type, "/sequences/000000/layer_003/q", "bfloat16"},
      {"big-endian k",
       [zeros](hid_t f) {
         replace_dataset(f, "/sequences/000000/layer_003/k", {20, 2, 8}, H5T_IEEE_F32BE, H5T_NATIVE_FLOAT,
                         zeros(320).data());
       },
       Code::wrong_type, "/sequences/000000/layer_003/k", "little-endian"},
      {"entropy_top with two columns",
       [zeros](hid_t f) {
         replace_floats(f, "/sequences/000000/entropy_top", {20, 2}, zeros(40));
       },
       Code::wrong_shape, "/sequences/000000/entropy_top", "[T, 3]"},
      {"second pass without chunk", [](hid_t f) { remove_link(f, "/sequences/000000/second_pass/chunk"); },
       Code::missing_data, "/sequences/000000/second_pass/chunk", "absent"},
      {"packets without wrappers", [](hid_t f) { remove_link(f, "/sequences/000000/packets/bare/wrappers"); },
       Code::missing_data, "/sequences/000000/packets/bare/wrappers", "absent"},
      {"documents that overlap",
       [](hid_t f) {
         replace_integers(f, "/sequences/000000/packets/bare/documents", {2, 2}, {2, 6, 5, 8});
       },
       Code::invalid_value, "/sequences/000000/packets/bare/documents", "apart"},
      {"documents behind the prompt",
       [](hid_t f) {
         replace_integers(f, "/sequences/000000/packets/bare/documents", {2, 2}, {2, 6, 17, 20});
       },
       Code::invalid_value, "/sequences/000000/packets/bare/documents", "inside the prompt"},
      {"a negative header",
       [](hid_t f) {
         replace_integers(f, "/sequences/000000/packets/wrapped/wrappers", {2, 2}, {-2, 5, 0, 3});
       },
       Code::invalid_value, "/sequences/000000/packets/wrapped/wrappers", "0 to 65536"},
      {"packets of other rows",
       [](hid_t f) {
         replace_integers(f, "/sequences/000000/packets/wrapped/wrappers", {2, 2}, {2, 2, 0, 3});
       },
       Code::wrong_shape, "/sequences/000000/packets/wrapped/layer_001/k", "[Tp, Hkv, d]"},
      {"rows behind packets without queries",
       [](hid_t f) { remove_link(f, "/sequences/000000/packets/wrapped/layer_001/after_q"); }, Code::missing_data,
       "/sequences/000000/packets/wrapped/layer_001/after_q", "absent"},
      {"a group for a dataset",
       [](hid_t f) {
         remove_link(f, "/sequences/000000/layer_003/k");
         H5Gclose(H5Gcreate2(f, "/sequences/000000/layer_003/k", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
       },
       Code::wrong_type, "/sequences/000000/layer_003/k", "dataset"},
      {"a link to another file",
       [](hid_t f) {
         remove_link(f, "/sequences/000000/layer_003/k");
         H5Lcreate_external("other.h5", "/k", f, "/sequences/000000/layer_003/k", H5P_DEFAULT, H5P_DEFAULT);
       },
       Code::wrong_type, "/sequences/000000/layer_003/k", "link"},
      {"a sequence without digits",
       [](hid_t f) { H5Lmove(f, "/sequences/000001", f, "/sequences/second", H5P_DEFAULT, H5P_DEFAULT); },
       Code::invalid_value, "/sequences", "digits"},
      {"2^60 rows claimed",
       [](hid_t f) {
         remove_link(f, "/sequences/000000/layer_003/k");
         const hsize_t extents[3] = {hsize_t{1} << 60, 2, 8};
         const hsize_t chunk[3] = {16, 2, 8};
         const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
         H5Pset_chunk(properties, 3, chunk);
         const hid_t space = H5Screate_simple(3, extents, nullptr);
         H5Dclose(H5Dcreate2(f, "/sequences/000000/layer_003/k", H5T_IEEE_F32LE, space, H5P_DEFAULT, properties,
                             H5P_DEFAULT));
       },
       Code::wrong_shape, "/sequences/000000/layer_003/k", "claims more"},
  };
  for (const char* name : {"format", "format_version", "model", "engine", "engine_version", "created", "num_layers",
                           "num_query_heads", "num_kv_heads", "head_dim", "hidden_size", "vocab_size",
                           "attention_scale", "logit_softcap", "rope_theta", "rope_attention_scaling", "rope_layout"}) {
    cases.push_back({name, [name](hid_t f) { delete_attribute(f, "/", name); }, Code::missing_data, name, "absent"});
  }
  for (const char* name : {"length", "prompt_length"}) {
    cases.push_back({name, [name](hid_t f) { delete_attribute(f, "/sequences/000000", name); }, Code::missing_data,
                     name, "absent"});
  }
  for (const char* name :
       {"/model", "/model/layers", "/model/inv_freq", "/sequences", "/sequences/000000/token_ids",
        "/sequences/000000/positions", "/sequences/000000/layer_003", "/sequences/000000/layer_003/k",
        "/sequences/000000/layer_003/v", "/sequences/000000/layer_003/q"}) {
    cases.push_back({name, [name](hid_t f) { remove_link(f, name); }, Code::missing_data, name, "absent"});
  }
  return cases;
}

void check_error(const Error& error, const std::filesystem::path& path, ErrorCode code, const std::string& dataset,
                 const std::string& rule) {
  const std::string line = error.what();
  INFO(line);
  CHECK(std::string(to_string(error.code())) == to_string(code));
  CHECK(line.find(path.string()) != std::string::npos);
  CHECK(line.find(dataset) != std::string::npos);
  CHECK(line.find(rule) != std::string::npos);
  CHECK(line.find('\n') == std::string::npos);
}

template <typename Action>
void check_throws(Action&& action, const std::filesystem::path& path, ErrorCode code, const std::string& dataset,
                  const std::string& rule) {
  try {
    action();
    FAIL_CHECK("no error was thrown");
  } catch (const Error& error) {
    check_error(error, path, code, dataset, rule);
  }
}

void check_refused(const std::filesystem::path& path, ErrorCode code, const std::string& rule) {
  check_throws([&] { Reader reader(path); }, path, code, "", rule);
}

void write_bytes(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

}  // namespace

TEST_CASE("each broken rule is named when the file is opened and when it is verified") {
  write_small_trace("valid.h5", {TensorType::float32, false});
  for (const Case& broken : structural_cases()) {
    const std::filesystem::path path = "broken.h5";
    std::filesystem::copy_file("valid.h5", path, std::filesystem::copy_options::overwrite_existing);
    edit_file(path, broken.edit);
    INFO(broken.name);
    check_throws([&] { Reader reader(path); }, path, broken.code, broken.dataset, broken.rule);
    const std::vector<Fault> faults = verify(path);
    CHECK(std::any_of(faults.begin(), faults.end(), [&](const Fault& fault) {
      return fault.code == broken.code && fault.line.find(broken.dataset) != std::string::npos &&
             fault.line.find(broken.rule) != std::string::npos;
    }));
  }
}

TEST_CASE("NaN and infinity in k, v and q are found when the layer is read") {
  write_small_trace("valid.h5", {TensorType::float32, false});
  for (const char* name : {"k", "v", "q"}) {
    for (const float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      const std::filesystem::path path = "not_finite.h5";
      std::filesystem::copy_file("valid.h5", path, std::filesystem::copy_options::overwrite_existing);
      const std::string dataset = std::string(layer) + "/" + name;
      const bool is_q = name[0] == 'q';
      std::vector<float> values(is_q ? 192 : 320, 0.5F);
      values[values.size() - 1] = value;
      edit_file(path, [&](hid_t file) {
        replace_floats(file, dataset.c_str(), {is_q ? hsize_t{6} : hsize_t{20}, is_q ? hsize_t{4} : hsize_t{2}, 8},
                       values);
      });
      const Reader reader(path);
      CHECK_NOTHROW(reader.read_layer(0, 1));
      check_throws([&] { static_cast<void>(reader.read_layer(0, 3)); }, path, ErrorCode::invalid_value, dataset,
                   "finite");
      const std::vector<Fault> faults = verify(path);
      REQUIRE(faults.size() == 1);
      CHECK(faults[0].dataset == dataset);
    }
  }
}

TEST_CASE("NaN in packets and in a second pass are found by the verifier, in packets when they are read too") {
  std::vector<float> values(12 * 2 * 8, 1.0F);
  values[100] = std::numeric_limits<float>::quiet_NaN();
  write_small_trace("passes.h5");
  edit_file("passes.h5", [&](hid_t f) {
    replace_floats(f, "/sequences/000001/packets/wrapped/layer_001/v", {12, 2, 8}, values);
    replace_floats(f, "/sequences/000001/second_pass/layer_001/k", {3, 2, 8},
                   {values.begin() + 80, values.begin() + 128});
  });
  const std::vector<Fault> faults = verify("passes.h5");
  REQUIRE(faults.size() == 2);
  CHECK(faults[0].dataset == "/sequences/000001/second_pass/layer_001/k");
  CHECK(faults[1].dataset == "/sequences/000001/packets/wrapped/layer_001/v");
  const Reader reader("passes.h5");
  CHECK_THROWS_WITH(reader.read_packet_layer(1, 1, PacketSet::wrapped), Catch::Contains("packets/wrapped/layer_001/v"));
  CHECK_NOTHROW(reader.read_packet_layer(0, 1, PacketSet::wrapped));
}

TEST_CASE("attention outputs that overflow are a fault") {
  write_small_trace("overflow.h5", {TensorType::float32, false}, 1);
  edit_file("overflow.h5", [](hid_t file) {
    replace_floats(file, "/model/layer_003/w_o", {12, 32}, std::vector<float>(384, 3e38F));
    replace_floats(file, "/sequences/000000/layer_003/v", {20, 2, 8}, std::vector<float>(320, 3e38F));
  });
  const std::vector<Fault> faults = verify("overflow.h5");
  REQUIRE(faults.size() == 1);
  CHECK(faults[0].line.find("w_o") != std::string::npos);
}

TEST_CASE("the verifier reports every fault, not only the first") {
  write_small_trace("many.h5", {TensorType::float32, false});
  edit_file("many.h5", [](hid_t file) {
    set_integer(file, "/sequences/000000", "prompt_length", 0);
    remove_link(file, "/sequences/000001/token_ids");
    remove_link(file, "/sequences/000001/layer_001/q");
    replace_integers(file, "/sequences/000001/layer_003/q_rows", {6}, {4, 9, 8, 17, 18, 19});
  });
  CHECK(verify("many.h5").size() == 4);
}

TEST_CASE("what is no HDF5 file is refused") {
  write_bytes("empty.h5", "");
  check_refused("empty.h5", ErrorCode::not_a_trace, "empty");
  write_bytes("text.h5", std::string(4096, 'x'));
  check_refused("text.h5", ErrorCode::not_a_trace, "not an HDF5 file");
  std::filesystem::create_directories("directory");
  check_refused("directory", ErrorCode::not_a_trace, "regular file");
  check_refused("absent.h5", ErrorCode::file_not_found, "No such file");
  check_throws([] { open_traces({"directory"}); }, "directory", ErrorCode::missing_data, "", "manifest.jsonl");
}

TEST_CASE("a file without read permission is refused") {
  write_small_trace("locked.h5");
  ::chmod("locked.h5", 0);
  // Root may read everything, so it lays its rights down for the attempt.
  const bool root = ::geteuid() == 0;
  if (root) REQUIRE(::seteuid(65534) == 0);
  const bool searchable = ::access(".", X_OK) == 0;
  try {
    Reader reader("locked.h5");
    FAIL_CHECK("no error was thrown");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::permission_denied);
    CHECK(std::string(error.what()).find("locked.h5") != std::string::npos);
  }
  CHECK((searchable || root));
  if (root) REQUIRE(::seteuid(0) == 0);
  ::chmod("locked.h5", 0644);
}

TEST_CASE("a directory without permission is refused in the words used for files") {
  std::filesystem::create_directories("closed/inside");
  ::chmod("closed", 0);
  const bool root = ::geteuid() == 0;
  if (root) REQUIRE(::seteuid(65534) == 0);
  for (const char* path : {"closed", "closed/inside"}) {
    try {
      static_cast<void>(open_traces({path}));
      FAIL_CHECK("no error was thrown");
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::permission_denied);
      CHECK_THAT(error.what(), Catch::Contains(path) && Catch::Contains("cannot read the ") &&
                                   Catch::Contains("Permission denied") && !Catch::Contains("filesystem error"));
    }
  }
  if (root) REQUIRE(::seteuid(0) == 0);
  ::chmod("closed", 0755);
}

TEST_CASE("a new trace replaces a regular file and nothing else") {
  write_small_trace("target.h5");
  write_small_trace("target.h5");
  std::filesystem::create_directories("taken/directory");
  for (const char* name : {"taken/fifo", "taken/link"}) std::filesystem::remove(name);
  REQUIRE(::mkfifo("taken/fifo", 0644) == 0);
  std::filesystem::create_symlink("/dev/null", "taken/link");
  for (const char* name : {"taken/directory", "taken/fifo", "taken/link"}) {
    const std::filesystem::file_type type = std::filesystem::symlink_status(name).type();
    check_throws([&] { write_small_trace(name); }, name, ErrorCode::invalid_argument, "", "is not a regular file");
    CHECK(std::filesystem::symlink_status(name).type() == type);
  }
  // Nothing was begun beside them.
  CHECK(std::distance(std::filesystem::directory_iterator("taken"), {}) == 3);
}

TEST_CASE("a file truncated at any byte is refused") {
  write_small_trace("whole.h5", {TensorType::float16, true}, 1);
  const std::string bytes = read_bytes("whole.h5");
  int accepted = 0;
  const std::size_t step = bytes.size() / 150 + 1;
  for (std::size_t size = 0; size < bytes.size(); size += size < 64 || size + 8 > bytes.size() ? 1 : step) {
    write_bytes("truncated.h5", bytes.substr(0, size));
    try {
      Reader reader("truncated.h5");
      ++accepted;
    } catch (const Error& error) {
      accepted += error.code() != ErrorCode::not_a_trace;
    }
  }
  CHECK(accepted == 0);
}

TEST_CASE("a file that is cut after it was opened is refused when its values are read") {
  const bool compress = GENERATE(false, true);
  write_small_trace("cut.h5", {TensorType::float16, compress}, 1);
  const Reader reader("cut.h5");
  std::filesystem::resize_file("cut.h5", 64);
  check_throws([&] { static_cast<void>(reader.read_layer(0, 3)); }, "cut.h5", ErrorCode::not_a_trace, "", "damaged");
}
