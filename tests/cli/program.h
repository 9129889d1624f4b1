#pragma once
/// \file
/// Runs the evictsim program on small traces, for tests of its commands.

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "traces/writer.h"

namespace evictsim::tests {

using Arguments = std::vector<std::string>;

inline constexpr std::int32_t prompt_length = 80;

inline std::filesystem::path scratch(const std::string& name) {
  std::filesystem::path folder = std::filesystem::path(EVICTSIM_TEST_SCRATCH) / name;
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  return folder;
}

inline std::string contents(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

struct TraceShape {
  int sequences = 2;
  std::int32_t length = prompt_length + 10;
  bool with_projection = true;
  bool all_queries = true;  ///< else only those of decode rows
};

/// Random attention of two layers, 4 query and 2 KV heads.
inline std::filesystem::path write_trace(const std::filesystem::path& path, const TraceShape& shape = {}) {
  traces::Header header;
  header.model = "made/up";
  header.engine = "test";
  header.engine_version = "1";
  header.created = "2026-01-01T00:00:00Z";
  header.num_layers = 4;
  header.num_query_heads = 4;
  header.num_kv_heads = 2;
  header.head_dim = 16;
  header.hidden_size = 32;
  header.vocab_size = 100;
  header.attention_scale = 0.25;
  header.rope_theta = 10000;
  header.layers = {0, 2};
  for (int pair = 0; pair < 8; ++pair) header.inv_freq.push_back(std::pow(10000.0, -pair / 8.0));
  std::mt19937 generator(3);
  std::normal_distribution<float> normal;
  const auto random = [&](std::size_t count) {
    std::vector<float> values(count);
    for (float& value : values) value = normal(generator);
    return values;
  };
  traces::Writer writer(path, header);
  for (const int layer : header.layers) {
    if (shape.with_projection) writer.write_weight(layer, traces::LayerWeight::w_o, random(32 * 64));
  }
  for (int sequence = 0; sequence < shape.sequences; ++sequence) {
    traces::SequenceInfo info;
    info.prompt_length = prompt_length;
    info.length = shape.length;
    for (std::int32_t row = 0; row < shape.length; ++row) info.positions.push_back(row);
    info.spans["evidence"] = {{10, 20}};
    writer.begin_sequence(info);
    const auto rows = static_cast<std::size_t>(shape.length);
    writer.write_channel(traces::Channel::token_ids, std::vector<float>(rows, 7.0F));
    std::vector<std::int32_t> query_rows = info.positions;
    if (!shape.all_queries) query_rows.erase(query_rows.begin(), query_rows.begin() + prompt_length);
    for (const int layer : header.layers) {
      writer.append_kv(layer, random(rows * 32), random(rows * 32));
      writer.append_q(layer, query_rows, random(query_rows.size() * 64));
    }
    writer.end_sequence();
  }
  writer.seal();
  return path;
}

struct Outcome {
  int status = -1;
  std::string out, err;
};

/// A running evictsim with its output in files of `folder`.
class Process {
 public:
  Process(const std::filesystem::path& folder, const Arguments& arguments) : folder_(folder) {
    std::vector<std::string> words = {EVICTSIM_BIN_DIR "/evictsim"};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> pointers;
    for (std::string& word : words) pointers.push_back(word.data());
    pointers.push_back(nullptr);
    const std::string out = (folder / "stdout").string();
    const std::string err = (folder / "stderr").string();
    child_ = fork();
    if (child_ == 0) {
      dup2(open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644), STDOUT_FILENO);
      dup2(open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644), STDERR_FILENO);
      execv(pointers.front(), pointers.data());
      _exit(99);
    }
  }
  void signal(int number) const { kill(child_, number); }
  [[nodiscard]] bool running() const {
    siginfo_t information{};
    waitid(P_PID, static_cast<id_t>(child_), &information, WEXITED | WNOHANG | WNOWAIT);
    return information.si_pid == 0;
  }
  Outcome wait() {
    int status = 0;
    while (waitpid(child_, &status, 0) < 0 && errno == EINTR) {
    }
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), contents(folder_ / "stdout"),
            contents(folder_ / "stderr")};
  }

 private:
  std::filesystem::path folder_;
  pid_t child_ = -1;
};

inline Outcome run(const std::filesystem::path& folder, const Arguments& arguments) {
  return Process(folder, arguments).wait();
}

/// Rows of a CSV file by column; quoted cells without line ends.
inline std::vector<std::map<std::string, std::string>> read_csv(const std::filesystem::path& path) {
  const auto cells_of = [](const std::string& line) {
    std::vector<std::string> cells(1);
    bool quoted = false;
    for (const char character : line) {
      if (character == '"') {
        quoted = !quoted;
      } else if (character == ',' && !quoted) {
        cells.emplace_back();
      } else {
        cells.back() += character;
      }
    }
    return cells;
  };
  std::ifstream stream(path);
  std::string line;
  std::getline(stream, line);
  const std::vector<std::string> names = cells_of(line);
  std::vector<std::map<std::string, std::string>> rows;
  while (std::getline(stream, line)) {
    const std::vector<std::string> cells = cells_of(line);
    REQUIRE(cells.size() == names.size());
    auto& row = rows.emplace_back();
    for (std::size_t column = 0; column < names.size(); ++column) row[names[column]] = cells[column];
  }
  return rows;
}

inline std::size_t lines_in(const std::string& text) {
  return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
}

}  // namespace evictsim::tests
