// A simulated NVRTC for tests: libnvrtc.so.13 with the functions medseg calls. It compiles nothing: whoever asks for a
// program that holds `#error` gets a log, and for any other the text that medseg ships (KERNELS_PTX names the file).

#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

enum { SUCCESS = 0, INVALID_INPUT = 3, COMPILATION = 6 };

struct Program {
    std::string source, log, text;
};

static int give(const std::string &text, char *to) { return memcpy(to, text.c_str(), text.size() + 1), SUCCESS; }

extern "C" {
const char *nvrtcGetErrorString(int) { return "NVRTC_ERROR_SIMULATED"; }
int nvrtcCreateProgram(Program **made, const char *source, const char *, int headers, const char *const *, const char *const *) {
    if (headers)
        return INVALID_INPUT;
    return *made = new Program{source, "", ""}, SUCCESS;
}
int nvrtcDestroyProgram(Program **old) { return delete *old, *old = nullptr, SUCCESS; }
int nvrtcCompileProgram(Program *program, int count, const char *const *options) {
    // The simulated GPU is of generation 9.0.
    if (count < 1 || strcmp(options[0], "--gpu-architecture=compute_90"))
        return INVALID_INPUT;
    if (program->source.find("#error") != std::string::npos) {
        program->log = "kernels.cu(1): error: #error directive\n";
        return COMPILATION;
    }
    std::ifstream file(KERNELS_PTX);
    program->text.assign(std::istreambuf_iterator<char>(file), {});
    return SUCCESS;
}
int nvrtcGetProgramLogSize(Program *program, size_t *size) { return *size = program->log.size() + 1, SUCCESS; }
int nvrtcGetProgramLog(Program *program, char *to) { return give(program->log, to); }
int nvrtcGetPTXSize(Program *program, size_t *size) { return *size = program->text.size() + 1, SUCCESS; }
int nvrtcGetPTX(Program *program, char *to) { return give(program->text, to); }
}
