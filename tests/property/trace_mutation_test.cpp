// Can a damaged trace crash, hang or exhaust the reader? Every variant is opened and read in a child process.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdio>
#include <fstream>
#include <map>
#include <random>

#include "tests/support/small_trace.h"
#include "traces/error.h"
#include "traces/reader.h"
#include "traces/verify.h"

using namespace evictsim;
using namespace evictsim::traces;
using namespace evictsim::traces::test;

namespace {

constexpr int read_whole = 0;
constexpr int refused = 1;
constexpr int other_exception = 2;

/// Reads all there is, as a replay would.
void read_everything(const std::filesystem::path& path) {
  const Reader reader(path);
  for (const int layer : reader.header().layers) {
    for (const auto weight : {LayerWeight::w_o, LayerWeight::input_norm, LayerWeight::output_norm}) {
      static_cast<void>(reader.read_weight(layer, weight));
    }
  }
  static_cast<void>(reader.read_model_tensor(ModelTensor::unembedding));
  for (std::size_t sequence = 0; sequence < reader.sequences().size(); ++sequence) {
    for (const int layer : reader.header().layers) {
      static_cast<void>(reader.read_layer(sequence, layer));
      static_cast<void>(reader.read_hidden(sequence, layer));
      static_cast<void>(reader.read_second_pass_queries(sequence, layer));
      static_cast<void>(reader.read_second_pass_keys(sequence, layer));
      for (const PacketSet set : packet_sets) static_cast<void>(reader.read_packet_layer(sequence, layer, set));
    }
    for (int channel = 0; channel <= static_cast<int>(Channel::final_norm_input); ++channel) {
      static_cast<void>(reader.read_channel(sequence, static_cast<Channel>(channel)));
    }
  }
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool sanitized = true;
#else
constexpr bool sanitized = false;
#endif

/// The child's exit status; minus the signal that ended it.
int outcome(const std::filesystem::path& path) {
  const pid_t child = ::fork();
  if (child == 0) {
    // A sanitizer reserves terabytes of address space, so there the limit is on what is really used.
    if (!sanitized) {
      const rlimit memory{rlim_t{1} << 30, rlim_t{1} << 30};
      ::setrlimit(RLIMIT_AS, &memory);
    }
    ::alarm(60);
    int result = read_whole;
    try {
      read_everything(path);
    } catch (const Error&) {
      result = refused;
    } catch (...) {
      result = other_exception;
    }
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    constexpr long most_kilobytes = 768 << 10;
    ::_exit(usage.ru_maxrss > most_kilobytes ? 3 : result);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

/// One to four changed bytes, or a cut.
std::string mutated(std::string bytes, std::mt19937_64& random) {
  const auto below = [&random](std::size_t count) { return static_cast<std::size_t>(random() % count); };
  if (below(8) == 0) return bytes.substr(0, below(bytes.size()));
  for (std::size_t change = below(4) + 1; change > 0; --change) {
    char& byte = bytes[below(bytes.size())];
    switch (below(4)) {
      case 0:
        byte = static_cast<char>(random());
        break;
      case 1:
        byte = static_cast<char>(0xff);
        break;
      default:
        byte = static_cast<char>(byte ^ (1 << below(8)));
    }
  }
  return bytes;
}

/// Copies a trace object by object into HDF5's oldest layout, whose metadata has no checksums.
void write_old_layout(const std::filesystem::path& from, const std::filesystem::path& to) {
  const hid_t source = H5Fopen(from.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  const hid_t target = H5Fcreate(to.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  for (const char* name : {"model", "sequences"}) H5Ocopy(source, name, target, name, H5P_DEFAULT, H5P_DEFAULT);
  const Header header = small_header();
  set_text(target, "/", "format", format_name);
  set_integer(target, "/", "format_version", format_version);
  for (const char* name : {"model", "engine", "engine_version", "created"}) set_text(target, "/", name, "old layout");
  const std::pair<const char*, int> integers[] = {{"num_layers", 4},      {"num_query_heads", 4},
                                                  {"num_kv_heads", 2},    {"head_dim", 8},
                                                  {"hidden_size", 12},    {"vocab_size", 50},
                                                  {"attention_scale", 1}, {"logit_softcap", 0},
                                                  {"rope_theta", 100},    {"rope_attention_scaling", 1},
                                                  {"rotary_dim", 6}};
  for (const auto& [name, value] : integers) set_integer(target, "/", name, value);
  set_text(target, "/", "rope_layout", "half");
  H5Fclose(target);
  H5Fclose(source);
}

void survive(const std::filesystem::path& valid, int variants, std::uint64_t seed) {
  REQUIRE(outcome(valid) == read_whole);
  const std::string bytes = read_bytes(valid);
  std::mt19937_64 random(seed);
  std::map<int, int> outcomes;
  for (int variant = 0; variant < variants; ++variant) {
    const std::string changed = mutated(bytes, random);
    std::ofstream("variant.h5", std::ios::binary) << changed;
    const int result = outcome("variant.h5");
    ++outcomes[result];
    if (result != read_whole && result != refused) {
      const std::string kept = valid.stem().string() + "-failed-" + std::to_string(variant) + ".h5";
      std::ofstream(kept, std::ios::binary) << changed;
      FAIL_CHECK(kept << ": outcome " << result << " (negative: signal, 2: other exception, 3: memory)");
    }
  }
  INFO("read " << outcomes[read_whole] << ", refused " << outcomes[refused] << " of " << variants);
  CHECK(outcomes[refused] > variants / 20);
}

}  // namespace

TEST_CASE("changed bytes and cuts never crash, hang or over-allocate") {
  // Uncompressed data is most of a small file and harmless to change; compressed, more of the changes hit metadata.
  write_small_trace("ours.h5", {TensorType::float16, true}, 1);
  write_old_layout("ours.h5", "old_layout.h5");
  survive("ours.h5", sanitized ? 150 : 700, 1);
  survive("old_layout.h5", sanitized ? 150 : 700, 2);
  // Plain chunks are read past HDF5, at the places that its metadata gives.
  write_small_trace("plain.h5", {TensorType::float16, false}, 1);
  write_old_layout("plain.h5", "plain_old_layout.h5");
  survive("plain_old_layout.h5", sanitized ? 150 : 400, 4);
}

TEST_CASE("changed attributes never crash, hang or over-allocate") {
  write_small_trace("valid.h5", {TensorType::float16, true}, 1);
  std::mt19937_64 random(3);
  const char* const root_names[] = {"num_layers",   "num_query_heads", "num_kv_heads",   "head_dim",
                                    "hidden_size",  "vocab_size",      "format_version", "rotary_dim",
                                    "dropped_rows", "attention_scale", "norm_epsilon"};
  const long long values[] = {-1, 0, 1, 2, 3, 7, 21, 1 << 24, 0x7fffffffLL, 0x80000000LL, 1LL << 60, -(1LL << 62)};
  int failed = 0;
  for (int variant = 0; variant < (sanitized ? 60 : 400); ++variant) {
    std::filesystem::copy_file("valid.h5", "variant.h5", std::filesystem::copy_options::overwrite_existing);
    edit_file("variant.h5", [&](hid_t file) {
      for (std::uint64_t edits = random() % 3 + 1; edits > 0; --edits) {
        const long long value = values[random() % std::size(values)];
        if (random() % 3 == 0) {
          set_integer(file, "/sequences/000000", random() % 2 == 0 ? "length" : "prompt_length", value);
        } else if (random() % 5 == 0) {
          set_text(file, "/", root_names[random() % std::size(root_names)], std::string(random() % 200, 'x'));
        } else {
          set_integer(file, "/", root_names[random() % std::size(root_names)], value);
        }
      }
    });
    const int result = outcome("variant.h5");
    failed += result != read_whole && result != refused;
  }
  CHECK(failed == 0);
}
