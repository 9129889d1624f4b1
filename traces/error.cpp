#include "traces/error.h"

#include <utility>

namespace evictsim {
namespace {

std::string one_line(const std::string& message, const ErrorContext& context) {
  std::string line;
  const auto add = [&line](const std::string& part) {
    if (part.empty()) return;
    if (!line.empty()) line += ": ";
    line += part;
  };
  add(context.file);
  add(context.dataset);
  if (!context.parameter.empty()) {
    add(context.value.empty() ? context.parameter : context.parameter + " = " + context.value);
  } else {
    add(context.value);
  }
  add(message);
  // Text from hostile files must not break the promise of one line.
  for (char& character : line) {
    if (static_cast<unsigned char>(character) < 0x20 || character == 0x7f) character = ' ';
  }
  return line;
}

}  // namespace

const char* to_string(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::file_not_found:
      return "file_not_found";
    case ErrorCode::permission_denied:
      return "permission_denied";
    case ErrorCode::io_failure:
      return "io_failure";
    case ErrorCode::not_a_trace:
      return "not_a_trace";
    case ErrorCode::unsupported_version:
      return "unsupported_version";
    case ErrorCode::missing_data:
      return "missing_data";
    case ErrorCode::wrong_type:
      return "wrong_type";
    case ErrorCode::wrong_shape:
      return "wrong_shape";
    case ErrorCode::invalid_value:
      return "invalid_value";
    case ErrorCode::checksum_mismatch:
      return "checksum_mismatch";
    case ErrorCode::invalid_argument:
      return "invalid_argument";
    case ErrorCode::unknown_name:
      return "unknown_name";
    case ErrorCode::missing_need:
      return "missing_need";
    case ErrorCode::policy_failure:
      return "policy_failure";
    case ErrorCode::unsupported:
      return "unsupported";
    case ErrorCode::out_of_memory:
      return "out_of_memory";
    case ErrorCode::device_failure:
      return "device_failure";
    case ErrorCode::interrupted:
      return "interrupted";
  }
  return "unknown";
}

Error::Error(ErrorCode code, const std::string& message, ErrorContext context)
    : std::runtime_error(one_line(message, context)), code_(code), message_(message), context_(std::move(context)) {}

}  // namespace evictsim
